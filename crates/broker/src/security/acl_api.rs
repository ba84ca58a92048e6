//! CreateAcls, DescribeAcls, DeleteAcls (KIP-140, KIP-290).

use std::collections::BTreeMap;

use herdsman_wire::kafka_protocol::messages::create_acls_request::AclCreation;
use herdsman_wire::kafka_protocol::messages::create_acls_response::AclCreationResult;
use herdsman_wire::kafka_protocol::messages::delete_acls_response::{
    DeleteAclsFilterResult, DeleteAclsMatchingAcl,
};
use herdsman_wire::kafka_protocol::messages::describe_acls_response::{AclDescription, DescribeAclsResource};
use herdsman_wire::kafka_protocol::messages::{
    CreateAclsRequest, CreateAclsResponse, DeleteAclsRequest, DeleteAclsResponse, DescribeAclsRequest,
    DescribeAclsResponse,
};
use herdsman_wire::kafka_protocol::protocol::StrBytes;

use super::acl::{ALL, ALLOW, Acl, CLUSTER, DENY, LITERAL, Operation, PREFIXED, Resource};
use crate::{Broker, BrokerError};

/// In filters: whatever it is.
const ANY: i8 = 1;
/// In filters: every pattern that the name falls under.
const MATCH: i8 = 2;
/// Most ACLs kept.
const ACLS_MAX: usize = 100_000;

fn text(value: impl Into<String>) -> StrBytes {
    StrBytes::from_string(value.into())
}

/// Which ACLs are meant.
struct Filter {
    resource: i8,
    name: Option<String>,
    pattern: i8,
    principal: Option<String>,
    host: Option<String>,
    operation: i8,
    permission: i8,
}

impl Filter {
    fn check(&self) -> Result<(), BrokerError> {
        let unknown =
            |what: &str| Err(BrokerError::InvalidRequest(format!("the filter names no known {what}")));
        match self {
            Self { resource, .. } if *resource < ANY => unknown("resource type"),
            Self { pattern, .. } if !(ANY..=PREFIXED).contains(pattern) => unknown("pattern type"),
            Self { operation, .. } if *operation < ANY => unknown("operation"),
            Self { permission, .. } if !(ANY..=ALLOW).contains(permission) => unknown("permission"),
            _ => Ok(()),
        }
    }

    fn takes(&self, acl: &Acl) -> bool {
        let is = |asked: i8, found: i8| asked == ANY || asked == found;
        let text_is = |asked: &Option<String>, found: &str| asked.as_ref().is_none_or(|asked| asked == found);
        let name_is = match (&self.name, self.pattern) {
            (None, ANY | MATCH) => true,
            (name, LITERAL | PREFIXED) => self.pattern == acl.pattern && text_is(name, &acl.name),
            (Some(name), MATCH) => match acl.pattern {
                PREFIXED => name.starts_with(&acl.name),
                _ => *name == acl.name || acl.name == "*",
            },
            (Some(name), _) => *name == acl.name,
            (None, _) => false,
        };
        name_is
            && is(self.resource, acl.resource)
            && text_is(&self.principal, &acl.principal)
            && text_is(&self.host, &acl.host)
            && is(self.operation, acl.operation)
            && is(self.permission, acl.permission)
    }
}

fn owned(value: Option<&StrBytes>) -> Option<String> {
    value.map(|value| value.to_string())
}

/// The ACL asked for, if it makes sense.
fn read(asked: &AclCreation) -> Result<Acl, BrokerError> {
    let refused = |said: String| Err(BrokerError::InvalidRequest(said));
    let last_resource = Resource::TransactionalId as i8;
    let name = asked.resource_name.as_str();
    let principal = asked.principal.as_str();
    if !(Resource::Topic as i8..=last_resource).contains(&asked.resource_type) {
        return refused(format!(
            "ACLs on resources of type {} are not kept here: topic, group, cluster and transactional id are",
            asked.resource_type
        ));
    }
    if name.is_empty() {
        return refused("the resource name is empty".to_owned());
    }
    if asked.resource_type == Resource::Cluster as i8 && name != CLUSTER {
        return refused(format!("the cluster is called {CLUSTER}, not {name}"));
    }
    if !(LITERAL..=PREFIXED).contains(&asked.resource_pattern_type) {
        return refused("a pattern is literal or prefixed".to_owned());
    }
    if !(ALL..=Operation::IdempotentWrite as i8).contains(&asked.operation) {
        return refused(format!("no operation has number {}", asked.operation));
    }
    if !(DENY..=ALLOW).contains(&asked.permission_type) {
        return refused("an ACL allows or denies".to_owned());
    }
    if principal.split_once(':').is_none_or(|(kind, name)| kind.is_empty() || name.is_empty()) {
        return refused(format!("principal {principal} is not of the form User:name"));
    }
    if asked.host.is_empty() {
        return refused("the host is empty: * is every host".to_owned());
    }
    Ok(Acl {
        resource: asked.resource_type,
        pattern: asked.resource_pattern_type,
        name: name.to_owned(),
        principal: principal.to_owned(),
        host: asked.host.to_string(),
        operation: asked.operation,
        permission: asked.permission_type,
    })
}

impl Broker {
    fn acls_are_on(&self) -> Result<(), BrokerError> {
        if self.security.config.authorizer { Ok(()) } else { Err(BrokerError::NoAuthorizer) }
    }

    pub(crate) fn on_create_acls(&self, request: &CreateAclsRequest) -> CreateAclsResponse {
        let asked: Vec<Result<Acl, BrokerError>> =
            request.creations.iter().map(|one| self.acls_are_on().and_then(|()| read(one))).collect();
        let kept = self.security.change(|records| {
            let full = records.acls.len() + asked.len() > ACLS_MAX;
            if !full {
                records.acls.extend(asked.iter().flatten().cloned());
            }
            full
        });
        let failure = match kept {
            Ok(false) => None,
            Ok(true) => Some(BrokerError::InvalidRequest(format!("at most {ACLS_MAX} ACLs are kept"))),
            Err(error) => Some(error),
        };
        let results = asked.iter().map(|one| match one.as_ref().err().or(failure.as_ref()) {
            None => AclCreationResult::default(),
            Some(error) => AclCreationResult::default()
                .with_error_code(error.code())
                .with_error_message(Some(text(error.to_string()))),
        });
        CreateAclsResponse::default().with_results(results.collect())
    }

    pub(crate) fn on_describe_acls(&self, request: &DescribeAclsRequest) -> DescribeAclsResponse {
        let filter = Filter {
            resource: request.resource_type_filter,
            name: owned(request.resource_name_filter.as_ref()),
            pattern: request.pattern_type_filter,
            principal: owned(request.principal_filter.as_ref()),
            host: owned(request.host_filter.as_ref()),
            operation: request.operation,
            permission: request.permission_type,
        };
        let response = DescribeAclsResponse::default();
        if let Err(error) = self.acls_are_on().and_then(|()| filter.check()) {
            return response.with_error_code(error.code()).with_error_message(Some(text(error.to_string())));
        }
        let records = self.security.records();
        let mut resources: BTreeMap<(i8, i8, &str), Vec<AclDescription>> = BTreeMap::new();
        for acl in records.acls.iter().filter(|acl| filter.takes(acl)) {
            let described = AclDescription::default()
                .with_principal(text(acl.principal.as_str()))
                .with_host(text(acl.host.as_str()))
                .with_operation(acl.operation)
                .with_permission_type(acl.permission);
            resources.entry((acl.resource, acl.pattern, &acl.name)).or_default().push(described);
        }
        let resources = resources.into_iter().map(|((resource, pattern, name), acls)| {
            DescribeAclsResource::default()
                .with_resource_type(resource)
                .with_pattern_type(pattern)
                .with_resource_name(text(name))
                .with_acls(acls)
        });
        response.with_resources(resources.collect())
    }

    pub(crate) fn on_delete_acls(&self, request: &DeleteAclsRequest) -> DeleteAclsResponse {
        let filters: Vec<Filter> = request
            .filters
            .iter()
            .map(|one| Filter {
                resource: one.resource_type_filter,
                name: owned(one.resource_name_filter.as_ref()),
                pattern: one.pattern_type_filter,
                principal: owned(one.principal_filter.as_ref()),
                host: owned(one.host_filter.as_ref()),
                operation: one.operation,
                permission: one.permission_type,
            })
            .collect();
        let checks: Vec<Result<(), BrokerError>> =
            filters.iter().map(|filter| self.acls_are_on().and_then(|()| filter.check())).collect();
        let deleted = self.security.change(|records| {
            let found: Vec<Vec<Acl>> = filters
                .iter()
                .zip(&checks)
                .map(|(filter, check)| {
                    let of_filter = records.acls.iter().filter(|acl| check.is_ok() && filter.takes(acl));
                    of_filter.cloned().collect()
                })
                .collect();
            records.acls.retain(|acl| !found.iter().flatten().any(|gone| gone == acl));
            found
        });
        let (found, failure) = match deleted {
            Ok(found) => (found, None),
            Err(error) => (vec![Vec::new(); filters.len()], Some(error)),
        };
        let results =
            checks.iter().zip(found).map(|(check, found)| match check.as_ref().err().or(failure.as_ref()) {
                Some(error) => DeleteAclsFilterResult::default()
                    .with_error_code(error.code())
                    .with_error_message(Some(text(error.to_string()))),
                None => DeleteAclsFilterResult::default()
                    .with_matching_acls(found.into_iter().map(matching).collect()),
            });
        DeleteAclsResponse::default().with_filter_results(results.collect())
    }
}

fn matching(acl: Acl) -> DeleteAclsMatchingAcl {
    DeleteAclsMatchingAcl::default()
        .with_resource_type(acl.resource)
        .with_resource_name(text(acl.name))
        .with_pattern_type(acl.pattern)
        .with_principal(text(acl.principal))
        .with_host(text(acl.host))
        .with_operation(acl.operation)
        .with_permission_type(acl.permission)
}
