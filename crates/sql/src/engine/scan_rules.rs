//! What a pull query must say about the key when table scans are switched off, in ksqlDB's words.

use crate::analyse::pull::PullPlan;
use crate::ast::{Comparison, Expr, ExprKind, Query};
use crate::catalog::Source;
use crate::diagnostic::SqlError;
use crate::printer::{Names, expression};

/// How a conjunct restricts a key column.
#[derive(Debug, Clone, PartialEq)]
enum Use {
    Equal(String),
    Range(String),
    In(String),
    Other,
}

/// Refuses a query that would need a table scan. `ranges`: range scans of single keys are allowed.
pub(super) fn check(plan: &PullPlan, query: &Query, ranges: bool) -> Result<(), SqlError> {
    let scan = || {
        SqlError::statement(
            "Query requires table scan to be enabled. Table scans can be enabled by setting ksql.query.pull.table.scan.enabled=true. See https://cnfl.io/queries for more info.\nAdd EMIT CHANGES if you intended to issue a push query.",
        )
    };
    let Some(filter) = &query.filter else { return Err(scan()) };
    for disjunct in split(filter, false) {
        let uses = conjunct_uses(&plan.source, disjunct)?;
        let keyed: Vec<&Use> = uses.iter().filter(|use_| **use_ != Use::Other).collect();
        if keyed.is_empty() {
            return Err(SqlError::statement(format!(
                "WHERE clause missing key column for disjunct: {}",
                expression(disjunct, Names::Bare)
            ))
            .at(disjunct.span));
        }
        check_keys(&plan.source, &keyed, disjunct)?;
        let range = keyed.iter().any(|use_| matches!(use_, Use::Range(_)));
        let text = plan.source.schema.key.iter().all(|key| key.ty == herdsman_stream::SqlType::String);
        let whole = text && plan.source.schema.key.len() == 1 && split(filter, false).len() == 1;
        if range && !(ranges && whole) {
            return Err(scan());
        }
    }
    Ok(())
}

fn check_keys(source: &Source, keyed: &[&Use], disjunct: &Expr) -> Result<(), SqlError> {
    let mut names: Vec<&str> = Vec::new();
    for use_ in keyed {
        let (Use::Equal(name) | Use::Range(name) | Use::In(name)) = use_ else { continue };
        if names.contains(&name.as_str()) {
            return Err(SqlError::statement(format!(
                "A comparison condition on the key column cannot be combined with other comparisons such as an IN predicate: {}",
                expression(disjunct, Names::Bare)
            ))
            .at(disjunct.span));
        }
        names.push(name);
    }
    if source.schema.key.iter().any(|key| !names.contains(&key.name.as_str())) {
        let keys: Vec<&str> = source.schema.key.iter().map(|key| key.name.as_str()).collect();
        return Err(SqlError::statement(format!(
            "Multi-column sources must specify every key in the WHERE clause. Specified: [{}] Expected: [{}]",
            names.join(", "),
            keys.join(", ")
        ))
        .at(disjunct.span));
    }
    Ok(())
}

/// The terms of a chain of OR (`and` false) or AND.
fn split(expr: &Expr, and: bool) -> Vec<&Expr> {
    match (&expr.kind, and) {
        (ExprKind::And(left, right), true) | (ExprKind::Or(left, right), false) => {
            let mut all = split(left, and);
            all.extend(split(right, and));
            all
        }
        _ => vec![expr],
    }
}

fn conjunct_uses(source: &Source, disjunct: &Expr) -> Result<Vec<Use>, SqlError> {
    split(disjunct, true).into_iter().map(|term| term_use(source, term)).collect()
}

fn key_name(source: &Source, expr: &Expr) -> Option<String> {
    match &expr.kind {
        ExprKind::Column { name, .. } if source.is_key(name) => Some(name.clone()),
        _ => None,
    }
}

fn mentions_column(expr: &Expr) -> bool {
    let mut found = false;
    expr.walk(&mut |inner| {
        found |= matches!(inner.kind, ExprKind::Column { .. });
        true
    });
    found
}

fn mentions_key(source: &Source, expr: &Expr) -> bool {
    let mut found = false;
    expr.walk(&mut |inner| {
        found |= key_name(source, inner).is_some();
        true
    });
    found
}

fn term_use(source: &Source, term: &Expr) -> Result<Use, SqlError> {
    match &term.kind {
        ExprKind::Compare { op, left, right } => {
            let (key, other) = match (key_name(source, left), key_name(source, right)) {
                (Some(key), _) => (key, right),
                (None, Some(key)) => (key, left),
                (None, None) if mentions_key(source, term) => {
                    return Err(SqlError::statement(format!(
                        "A comparison must directly reference a key column. Got: {}",
                        expression(term, Names::Bare)
                    ))
                    .at(term.span));
                }
                (None, None) => return Ok(Use::Other),
            };
            if mentions_column(other) {
                return Err(SqlError::statement(format!(
                    "A comparison must be between a key column and a resolvable expression. Got: {}",
                    expression(term, Names::Bare)
                ))
                .at(term.span));
            }
            Ok(if *op == Comparison::Equal { Use::Equal(key) } else { Use::Range(key) })
        }
        ExprKind::In { input, list, .. } => match key_name(source, input) {
            Some(_) if list.iter().any(mentions_column) => Err(SqlError::statement(format!(
                "A comparison must be between a key column and a resolvable expression. Got: {}",
                expression(term, Names::Bare)
            ))
            .at(term.span)),
            Some(key) => Ok(Use::In(key)),
            None => Ok(Use::Other),
        },
        ExprKind::Like { input, .. } if key_name(source, input).is_some() => {
            Err(SqlError::statement("Query requires table scan to be enabled. Table scans can be enabled by setting ksql.query.pull.table.scan.enabled=true.").at(term.span))
        }
        _ => Ok(Use::Other),
    }
}
