//! Pull queries: a look-up or a scan of what is there now, without a running query.

use std::sync::Arc;

use herdsman_stream::SqlType;
use herdsman_stream::expr::{CompareOp, Expr as Typed, Value};
use herdsman_stream::plan::NamedExpr;

use super::relation::{Needed, collect, column};
use super::scope::{Clause, Item, Scope};
use super::types::{Checker, Col, cast_to};
use crate::ast::{Expr, ExprKind, Query, Span};
use crate::catalog::{Catalog, Source};
use crate::diagnostic::SqlError;
use crate::printer::Names;

/// What a pull query reads and gives.
pub(crate) struct PullPlan {
    pub source: Arc<Source>,
    /// Over key columns, value columns, ROWTIME, and WINDOWSTART, WINDOWEND of a windowed source.
    pub items: Vec<NamedExpr>,
    /// Which items print as KEY in the header.
    pub keys: Vec<bool>,
    pub filter: Option<Typed>,
    /// Sort keys and whether descending.
    pub order: Vec<(Typed, bool)>,
    /// The keys that the filter allows, when it names them all.
    pub wanted: Option<Vec<Vec<Value>>>,
}

/// Plans a SELECT without EMIT.
pub(crate) fn plan(catalog: &Catalog, query: &Query, script: Arc<str>) -> Result<PullPlan, SqlError> {
    check_clauses(query)?;
    let scope = Scope::new(catalog, query, script)?;
    let Some((alias, source)) = scope.sources.first().cloned() else {
        return Err(SqlError::statement("a query needs a source: write FROM"));
    };
    let cols = columns(&alias, &source);
    let items = scope.items(query, &|_| star(&alias, &source))?;
    check_columns(items.iter().map(|item| &item.expr), "SELECT", query.span)?;
    let mut filter = query.filter.clone();
    if let Some(filter) = &mut filter {
        scope.qualify(filter, Clause::Where)?;
        check_key_literals(&source, filter)?;
        check_columns(std::iter::once(&*filter), "WHERE", query.span)?;
    }
    let mut checker = Checker::new(catalog, &cols, Names::Bare);
    let predicate = match &filter {
        None => None,
        Some(filter) => Some(checker.condition(filter, Clause::Where.name()).map_err(|mut error| {
            if error.message.contains("Cannot compare") {
                error.message.push_str(&format!("\nStatement: {}", checker.text(filter)));
            }
            error
        })?),
    };
    let mut order = Vec::new();
    for (expr, descending) in &query.order_by {
        let mut expr = expr.clone();
        let alias = match &expr.kind {
            ExprKind::Column { qualifier: None, name } => items.iter().find(|item| item.alias == *name),
            _ => None,
        };
        match alias {
            Some(item) => expr = item.expr.clone(),
            None => scope.qualify(&mut expr, Clause::OrderBy)?,
        }
        order.push((checker.value(&expr)?, *descending));
    }
    let typed = items
        .iter()
        .map(|item| Ok(NamedExpr { name: item.alias.clone(), expr: checker.value(&item.expr)? }))
        .collect::<Result<Vec<_>, SqlError>>()?;
    let keys = items.iter().map(|item| source.table && is_key(&source, &item.expr)).collect();
    let wanted = predicate.as_ref().and_then(|predicate| wanted(predicate, &source));
    Ok(PullPlan { source, items: typed, keys, filter: predicate, order, wanted })
}

fn check_clauses(query: &Query) -> Result<(), SqlError> {
    let clause = if !query.joins.is_empty() {
        "JOIN"
    } else if query.window.is_some() {
        "WINDOW"
    } else if query.group_by.is_some() {
        "GROUP BY"
    } else if query.partition_by.is_some() {
        "PARTITION BY"
    } else if query.having.is_some() {
        "HAVING"
    } else {
        return Ok(());
    };
    Err(SqlError::statement(format!(
        "Pull queries don't support {clause} clauses. See https://cnfl.io/queries for more info.\nAdd EMIT CHANGES if you intended to issue a push query."
    ))
    .at(query.span))
}

fn check_columns<'e>(
    exprs: impl Iterator<Item = &'e Expr>,
    clause: &str,
    span: Span,
) -> Result<(), SqlError> {
    let mut needed = Needed::new();
    exprs.for_each(|expr| collect(expr, &mut needed));
    let bad: Vec<String> = needed
        .iter()
        .filter(|(_, name)| matches!(name.as_str(), "ROWPARTITION" | "ROWOFFSET"))
        .map(|(_, name)| format!("`{name}`"))
        .collect();
    if bad.is_empty() {
        return Ok(());
    }
    Err(SqlError::statement(format!(
        "Pull queries don't support the following columns in {clause} clauses: {}",
        bad.join(", ")
    ))
    .at(span))
}

/// `ID IN ('10', 8)` on a numeric key is refused before the list is given one type.
fn check_key_literals(source: &Source, filter: &Expr) -> Result<(), SqlError> {
    let mut bad = None;
    filter.walk(&mut |expr| {
        let ExprKind::In { input, list, .. } = &expr.kind else { return true };
        let ExprKind::Column { name, .. } = &input.kind else { return true };
        let key = source.schema.key.iter().find(|key| key.name == *name && key.ty.is_numeric());
        let literal = list.iter().find(|item| matches!(item.kind, ExprKind::String(_)));
        if let (Some(key), Some(literal), None) = (key, literal, &bad) {
            let text = crate::printer::expression(literal, Names::Bare);
            let message = format!(
                "{text} can not be converted to the type of the key column: {} {} KEY",
                key.name, key.ty
            );
            bad = Some(SqlError::statement(message).at(literal.span));
        }
        true
    });
    bad.map_or(Ok(()), Err)
}

fn columns(alias: &str, source: &Source) -> Vec<Col> {
    let col = |name: &str, ty: SqlType| Col { alias: alias.to_owned(), name: name.to_owned(), ty };
    let mut cols: Vec<Col> =
        source.schema.columns().map(|column| col(&column.name, column.ty.clone())).collect();
    cols.push(col("ROWTIME", SqlType::BigInt));
    if source.window.is_some() {
        cols.push(col("WINDOWSTART", SqlType::BigInt));
        cols.push(col("WINDOWEND", SqlType::BigInt));
    }
    cols
}

fn star(alias: &str, source: &Source) -> Vec<Item> {
    let item = |name: &str| Item {
        expr: column(alias, name, Span::default()),
        alias: name.to_owned(),
        written: false,
    };
    let mut items: Vec<Item> = source.schema.key.iter().map(|key| item(&key.name)).collect();
    if source.window.is_some() {
        items.push(item("WINDOWSTART"));
        items.push(item("WINDOWEND"));
    }
    items.extend(source.schema.value.iter().map(|value| item(&value.name)));
    items
}

fn is_key(source: &Source, expr: &Expr) -> bool {
    matches!(&expr.kind, ExprKind::Column { name, .. }
        if source.is_key(name) || (source.window.is_some() && matches!(name.as_str(), "WINDOWSTART" | "WINDOWEND")))
}

/// Keys that the predicate pins down: `k = 1`, `k IN (1, 2)`, ANDed; all key columns must be pinned.
fn wanted(predicate: &Typed, source: &Source) -> Option<Vec<Vec<Value>>> {
    let keys = source.schema.key.len();
    if keys == 0 {
        return None;
    }
    let mut pinned: Vec<Option<Vec<Value>>> = vec![None; keys];
    pin(predicate, source, &mut pinned);
    let mut combined: Vec<Vec<Value>> = vec![Vec::new()];
    for values in pinned {
        let values = values?;
        combined = combined
            .iter()
            .flat_map(|prefix| {
                values.iter().map(|value| {
                    prefix.iter().cloned().chain(std::iter::once(value.clone())).collect::<Vec<_>>()
                })
            })
            .collect();
        if combined.len() > 10_000 {
            return None;
        }
    }
    let mut unique: Vec<Vec<Value>> = Vec::new();
    for key in combined {
        if !unique.contains(&key) {
            unique.push(key);
        }
    }
    Some(unique)
}

fn pin(predicate: &Typed, source: &Source, pinned: &mut [Option<Vec<Value>>]) {
    match predicate {
        Typed::And(left, right) => {
            pin(left, source, pinned);
            pin(right, source, pinned);
        }
        Typed::Compare { op: CompareOp::Equal, left, right } => {
            for (column, value) in [(left, right), (right, left)] {
                if let Some((index, value)) = constant(column, value, source) {
                    pinned[index].get_or_insert_with(|| vec![value]);
                }
            }
        }
        Typed::In { input, list, negated: false } => {
            let Typed::Column { index, .. } = &**input else { return };
            let values: Option<Vec<Value>> =
                list.iter().map(|item| constant(input, item, source).map(|(_, value)| value)).collect();
            if let (Some(values), true) = (values, *index < pinned.len()) {
                pinned[*index].get_or_insert(values);
            }
        }
        _ => {}
    }
}

fn constant(column: &Typed, value: &Typed, source: &Source) -> Option<(usize, Value)> {
    let Typed::Column { index, ty } = column else { return None };
    if *index >= source.schema.key.len() || !is_constant(value) {
        return None;
    }
    // A number that changes when it becomes the key's type (1.5 for an INTEGER) equals no key of that type.
    if value.ty() != *ty && !herdsman_stream::functions::can_implicitly_cast(&value.ty(), ty) {
        return None;
    }
    let value = cast_to(value.clone(), ty).evaluate_constant(0).ok()?;
    (value != Value::Null).then_some((*index, value))
}

fn is_constant(expr: &Typed) -> bool {
    match expr {
        Typed::Literal { .. } => true,
        Typed::Cast { input, .. } | Typed::Negate(input) => is_constant(input),
        _ => false,
    }
}
