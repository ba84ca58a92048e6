//! ACLs and what they decide, by the rules of Kafka's own authorizer: deny goes first, then allow, then no.
//!
//! Source: KIP-11, KIP-290 (prefixed patterns), `StandardAuthorizer` of Apache Kafka 4. A decision reads every ACL once;
//! connections keep theirs until an ACL changes (`session`).

use serde::{Deserialize, Serialize};

use super::{Records, SecurityConfig};

/// What an ACL is about, by its number in the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Resource {
    Topic = 2,
    Group = 3,
    Cluster = 4,
    TransactionalId = 5,
}

/// What may be done, by its number in the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    Read = 3,
    Write = 4,
    Create = 5,
    Delete = 6,
    Alter = 7,
    Describe = 8,
    ClusterAction = 9,
    DescribeConfigs = 10,
    AlterConfigs = 11,
    IdempotentWrite = 12,
}

impl Operation {
    /// Its bit among authorized operations (KIP-430).
    pub(crate) fn bit(self) -> i32 {
        1 << (self as i8)
    }
}

/// Operations that make sense of each resource, as Kafka lists them (`AclEntry.supportedOperations`).
pub(crate) fn operations_of(resource: Resource) -> &'static [Operation] {
    use Operation as O;
    match resource {
        Resource::Topic => &[
            O::Read,
            O::Write,
            O::Create,
            O::Describe,
            O::Delete,
            O::Alter,
            O::DescribeConfigs,
            O::AlterConfigs,
        ],
        Resource::Group => &[O::Read, O::Describe, O::Delete, O::DescribeConfigs, O::AlterConfigs],
        Resource::Cluster => &[
            O::Create,
            O::ClusterAction,
            O::DescribeConfigs,
            O::AlterConfigs,
            O::IdempotentWrite,
            O::Alter,
            O::Describe,
        ],
        Resource::TransactionalId => &[O::Describe, O::Write],
    }
}

/// The name of the only cluster.
pub(crate) const CLUSTER: &str = "kafka-cluster";
/// Pattern type: the name itself; `*` is every name.
pub(crate) const LITERAL: i8 = 3;
/// Pattern type: names that begin so.
pub(crate) const PREFIXED: i8 = 4;
/// Operation: every one.
pub(crate) const ALL: i8 = 2;
/// Permission.
pub(crate) const DENY: i8 = 2;
/// Permission.
pub(crate) const ALLOW: i8 = 3;
const WILDCARD: &str = "*";
const EVERYONE: &str = "User:*";

/// One rule. Numbers are the protocol's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Acl {
    pub(crate) resource: i8,
    pub(crate) pattern: i8,
    pub(crate) name: String,
    pub(crate) principal: String,
    pub(crate) host: String,
    pub(crate) operation: i8,
    pub(crate) permission: i8,
}

impl Acl {
    fn is_about(&self, resource: Resource, name: &str) -> bool {
        self.resource == resource as i8
            && match self.pattern {
                PREFIXED => name.starts_with(&self.name),
                _ => self.name == name || self.name == WILDCARD,
            }
    }

    fn is_for(&self, who: &Who<'_>) -> bool {
        (self.principal == who.principal || self.principal == EVERYONE)
            && (self.host == who.host || self.host == WILDCARD)
    }

    /// Whether it speaks of `operation`: allowing some operations allows to describe, denying them does not deny it.
    fn covers(&self, operation: Operation) -> bool {
        use Operation as O;
        if self.operation == ALL || self.operation == operation as i8 {
            return true;
        }
        let implied_by: &[O] = match operation {
            O::Describe => &[O::Read, O::Write, O::Delete, O::Alter],
            O::DescribeConfigs => &[O::AlterConfigs],
            _ => &[],
        };
        self.permission == ALLOW && implied_by.iter().any(|other| *other as i8 == self.operation)
    }
}

/// Who asks.
pub(crate) struct Who<'a> {
    /// `User:ana`.
    pub(crate) principal: &'a str,
    /// Address without a port.
    pub(crate) host: &'a str,
}

fn is_super(config: &SecurityConfig, who: &Who<'_>) -> bool {
    config.super_users.iter().any(|name| name == who.principal)
}

/// Whether `who` may do `operation` on the resource called `name`.
pub(crate) fn allows(
    config: &SecurityConfig,
    records: &Records,
    who: &Who<'_>,
    operation: Operation,
    resource: Resource,
    name: &str,
) -> bool {
    if is_super(config, who) {
        return true;
    }
    let (mut found, mut allowed) = (false, false);
    for acl in records.acls.iter().filter(|acl| acl.is_about(resource, name)) {
        found = true;
        if acl.is_for(who) && acl.covers(operation) {
            if acl.permission == DENY {
                return false;
            }
            allowed = true;
        }
    }
    allowed || (!found && config.allow_everyone_if_no_acl_found)
}

/// Whether `who` may do `operation` on at least one resource of this kind, whatever its name (KIP-679).
pub(crate) fn allows_any(
    config: &SecurityConfig,
    records: &Records,
    who: &Who<'_>,
    operation: Operation,
    resource: Resource,
) -> bool {
    if is_super(config, who) {
        return true;
    }
    let fits = |acl: &&Acl| acl.resource == resource as i8 && acl.is_for(who) && acl.covers(operation);
    let of = |permission| records.acls.iter().filter(fits).filter(move |acl| acl.permission == permission);
    if of(DENY).any(|acl| acl.pattern == LITERAL && acl.name == WILDCARD) {
        return false;
    }
    // an allowance counts unless a denial covers every name it allows
    let is_hollow = |allow: &Acl| {
        of(DENY).any(|deny| match (deny.pattern, allow.pattern) {
            (PREFIXED, _) => allow.name != WILDCARD && allow.name.starts_with(&deny.name),
            (_, LITERAL) => deny.name == allow.name,
            _ => false,
        })
    };
    config.allow_everyone_if_no_acl_found || of(ALLOW).any(|acl| !is_hollow(acl))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(pattern: i8, name: &str, principal: &str, host: &str, operation: i8, permission: i8) -> Acl {
        Acl {
            resource: Resource::Topic as i8,
            pattern,
            name: name.to_owned(),
            principal: principal.to_owned(),
            host: host.to_owned(),
            operation,
            permission,
        }
    }

    fn records(acls: &[Acl]) -> Records {
        Records { acls: acls.iter().cloned().collect(), ..Records::default() }
    }

    const READ: i8 = Operation::Read as i8;

    #[test]
    fn patterns_hosts_and_principals_decide_and_a_denial_goes_first() {
        let records = records(&[
            acl(PREFIXED, "finds-", "User:ana", "*", READ, ALLOW),
            acl(LITERAL, "finds-secret", "User:*", "*", READ, DENY),
            acl(LITERAL, "*", "User:bob", "10.0.0.1", ALL, ALLOW),
        ]);
        let config =
            SecurityConfig { super_users: vec!["User:root".to_owned()], ..SecurityConfig::default() };
        let may = |principal, host, operation, name| {
            allows(&config, &records, &Who { principal, host }, operation, Resource::Topic, name)
        };
        for (principal, host, operation, name, expected) in [
            ("User:ana", "127.0.0.1", Operation::Read, "finds-oak", true),
            ("User:ana", "127.0.0.1", Operation::Describe, "finds-oak", true),
            ("User:ana", "127.0.0.1", Operation::Write, "finds-oak", false),
            ("User:ana", "127.0.0.1", Operation::Read, "finds", false),
            ("User:ana", "127.0.0.1", Operation::Read, "finds-secret", false),
            // denying to read does not deny to describe
            ("User:ana", "127.0.0.1", Operation::Describe, "finds-secret", true),
            ("User:bob", "10.0.0.1", Operation::Delete, "anything", true),
            ("User:bob", "10.0.0.2", Operation::Delete, "anything", false),
            ("User:root", "10.0.0.2", Operation::Delete, "finds-secret", true),
        ] {
            assert_eq!(may(principal, host, operation, name), expected, "{principal} {operation:?} {name}");
        }
    }

    #[test]
    fn everyone_may_where_no_acl_is_found_only_if_told_so() {
        let records = records(&[acl(LITERAL, "finds", "User:ana", "*", READ, ALLOW)]);
        let who = Who { principal: "User:eve", host: "h" };
        let open = SecurityConfig { allow_everyone_if_no_acl_found: true, ..SecurityConfig::default() };
        let may = |config, name| allows(config, &records, &who, Operation::Read, Resource::Topic, name);
        assert!(may(&open, "other") && !may(&open, "finds") && !may(&SecurityConfig::default(), "other"));
    }

    #[test]
    fn any_topic_counts_unless_denials_cover_every_allowance() {
        let config = SecurityConfig::default();
        let who = Who { principal: "User:ana", host: "h" };
        let any = |acls: &[Acl]| allows_any(&config, &records(acls), &who, Operation::Read, Resource::Topic);
        let allow = acl(PREFIXED, "finds-", "User:ana", "*", READ, ALLOW);
        assert!(any(std::slice::from_ref(&allow)));
        assert!(!any(&[]));
        assert!(!any(&[allow.clone(), acl(LITERAL, "*", "User:*", "*", READ, DENY)]));
        assert!(!any(&[allow.clone(), acl(PREFIXED, "find", "User:*", "*", ALL, DENY)]));
        assert!(any(&[allow, acl(LITERAL, "finds-secret", "User:*", "*", READ, DENY)]));
    }
}
