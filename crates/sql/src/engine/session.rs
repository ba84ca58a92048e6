//! What belongs to one client: properties that SET changed, variables that DEFINE made.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::ast::StatementKind;
use crate::diagnostic::SqlError;
use crate::parser;

/// Properties and variables of one client. SET, UNSET, DEFINE and UNDEFINE change it through a shared reference.
#[derive(Debug, Default)]
pub struct Session {
    properties: Mutex<BTreeMap<String, String>>,
    variables: Mutex<BTreeMap<String, String>>,
}

impl Clone for Session {
    fn clone(&self) -> Self {
        Self { properties: Mutex::new(self.properties()), variables: Mutex::new(self.variables()) }
    }
}

impl Session {
    /// A session with these properties (`streamsProperties` of a request) and variables (`sessionVariables`).
    #[must_use]
    pub fn new(properties: BTreeMap<String, String>, variables: BTreeMap<String, String>) -> Self {
        let session = Self::default();
        for (name, value) in properties {
            session.set(&name, &value);
        }
        *session.variables.lock().unwrap_or_else(PoisonError::into_inner) = variables;
        session
    }

    /// Carries out SET, UNSET, DEFINE and UNDEFINE statements without an engine.
    ///
    /// # Errors   what does not parse; other statements.
    pub fn apply(&self, statement: &str) -> Result<(), SqlError> {
        for statement in parser::parse_script(statement)? {
            match &statement.kind {
                StatementKind::Set { name, value } => self.set(name, value),
                StatementKind::Define { name, value } => self.define(name, value),
                StatementKind::Unset(name) => {
                    self.unset(name);
                }
                StatementKind::Undefine(name) => {
                    self.undefine(name);
                }
                _ => {
                    return Err(SqlError::statement("only SET, UNSET, DEFINE and UNDEFINE change a session"));
                }
            }
        }
        Ok(())
    }

    /// A copy of the properties.
    #[must_use]
    pub fn properties(&self) -> BTreeMap<String, String> {
        self.properties.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A copy of the variables.
    #[must_use]
    pub fn variables(&self) -> BTreeMap<String, String> {
        self.variables.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// SET. `ksql.streams.x` and `x` are the same property.
    pub fn set(&self, name: &str, value: &str) {
        let name = name.strip_prefix("ksql.streams.").unwrap_or(name);
        self.properties
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), value.to_owned());
    }

    /// UNSET; returns whether the property was set.
    pub fn unset(&self, name: &str) -> bool {
        let name = name.strip_prefix("ksql.streams.").unwrap_or(name);
        self.properties.lock().unwrap_or_else(PoisonError::into_inner).remove(name).is_some()
    }

    /// A property.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        self.properties.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// DEFINE.
    pub fn define(&self, name: &str, value: &str) {
        let mut variables = self.variables.lock().unwrap_or_else(PoisonError::into_inner);
        variables.retain(|known, _| !known.eq_ignore_ascii_case(name));
        variables.insert(name.to_lowercase(), value.to_owned());
    }

    /// UNDEFINE; returns whether the variable was defined.
    pub fn undefine(&self, name: &str) -> bool {
        let mut variables = self.variables.lock().unwrap_or_else(PoisonError::into_inner);
        let before = variables.len();
        variables.retain(|known, _| !known.eq_ignore_ascii_case(name));
        variables.len() < before
    }

    /// `sql` with every `${name}` replaced.
    pub(crate) fn substitute(&self, sql: &str) -> Result<String, SqlError> {
        if !sql.contains("${") {
            return Ok(sql.to_owned());
        }
        let variables = self.variables();
        let mut out = String::with_capacity(sql.len());
        let mut rest = sql;
        while let Some((before, after)) = rest.split_once("${") {
            out.push_str(before);
            let Some((name, tail)) = after.split_once('}') else {
                rest = after;
                out.push_str("${");
                continue;
            };
            match variables.iter().find(|(known, _)| known.eq_ignore_ascii_case(name.trim())) {
                Some((_, value)) => out.push_str(value),
                None => {
                    out.push_str("${");
                    out.push_str(name);
                    out.push('}');
                }
            }
            rest = tail;
        }
        out.push_str(rest);
        Ok(out)
    }
}
