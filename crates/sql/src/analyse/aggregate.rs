//! GROUP BY: which expressions are keys, which are aggregates, and whether the rest fits.

use herdsman_stream::SqlType;
use herdsman_stream::aggregate::{self, AggregateCall};
use herdsman_stream::expr::{Expr as Typed, Value};
use herdsman_stream::functions::{self, FunctionKind};
use herdsman_stream::plan::{Emit as PlanEmit, NamedExpr, Node, Window as PlanWindow, WindowSpec};

use super::relation::{Needed, Rel};
use super::scope::{Clause, Item, is_window_bound};
use super::types::{Checker, Col, cast_to, unknown_function};
use crate::ast::{Emit, Expr, ExprKind, Query, Span, Window, WindowKind};
use crate::catalog::{Catalog, KeyWindow, WindowKindName, check_key_types};
use crate::diagnostic::SqlError;
use crate::printer::{self, Names};

const DAY_MS: i64 = 86_400_000;

pub(crate) fn is_aggregate(expr: &Expr) -> bool {
    matches!(&expr.kind, ExprKind::Call { name, .. } if functions::kind(name) == Some(FunctionKind::Aggregate))
}

pub(crate) fn is_table_function(expr: &Expr) -> bool {
    matches!(&expr.kind, ExprKind::Call { name, .. } if functions::kind(name) == Some(FunctionKind::Table))
}

fn is_unknown(expr: &Expr) -> bool {
    matches!(&expr.kind, ExprKind::Call { name, .. } if functions::kind(name).is_none())
}

/// Calls of `expr` that `wanted` picks, outermost first.
pub(crate) fn calls(expr: &Expr, wanted: fn(&Expr) -> bool) -> Vec<&Expr> {
    let mut found = Vec::new();
    expr.walk(&mut |expr| {
        let hit = wanted(expr);
        if hit {
            found.push(expr);
        }
        !hit
    });
    found
}

/// The aggregation of a query.
pub(crate) struct Grouping<'a> {
    pub catalog: &'a Catalog,
    pub query: &'a Query,
    pub items: &'a [Item],
    pub by: &'a [Expr],
    pub having: Option<&'a Expr>,
    pub names: Names,
    pub needed: &'a Needed,
    /// Key format of the repartition topic.
    pub key_format: herdsman_formats::FormatSpec,
    /// Names of key columns that have none of their own.
    pub generated: &'a dyn Fn(&Expr) -> String,
    pub statement: &'static str,
}

/// An aggregated relation: expressions that its columns stand for.
pub(crate) struct Grouped {
    pub rel: Rel,
    pub replace: Vec<(Expr, usize)>,
}

impl Grouping<'_> {
    fn text(&self, expr: &Expr) -> String {
        printer::expression(expr, self.names)
    }

    pub(crate) fn plan(&self, input: Rel) -> Result<Grouped, SqlError> {
        self.check_functions(&input)?;
        self.check_items()?;
        let key = self.key(&input)?;
        let input = if self.keeps_key(&input) { input } else { self.rekeyed(input, key) };
        self.aggregate(input)
    }

    fn check_functions(&self, input: &Rel) -> Result<(), SqlError> {
        for (index, expr) in self.by.iter().enumerate() {
            if let Some(call) = calls(expr, is_aggregate).first() {
                let name = call_name(call);
                return Err(SqlError::statement(format!(
                    "GROUP BY does not support aggregate functions: {name} is an aggregate function."
                ))
                .at(call.span));
            }
            if self.by.iter().take(index).any(|other| other == expr) {
                return Err(SqlError::statement(format!(
                    "Duplicate GROUP BY expression: {}",
                    printer::expression(expr, Names::Qualified)
                ))
                .at(expr.span));
            }
        }
        let all = self.items.iter().map(|item| &item.expr).chain(self.having);
        let mut refused = Vec::new();
        for call in all.clone().flat_map(|expr| calls(expr, is_aggregate)) {
            for arg in call.children() {
                if let Some(inner) = calls(arg, is_aggregate).first() {
                    let _ = inner;
                    return Err(SqlError::statement(format!(
                        "Aggregate functions can not be nested: {}",
                        self.text(call)
                    ))
                    .at(call.span));
                }
            }
            if input.table && self.undo_missing(call) {
                let name = call_name(call);
                if !refused.contains(&name) {
                    refused.push(name);
                }
            }
        }
        if all.clone().any(|expr| !calls(expr, is_table_function).is_empty()) {
            return Err(SqlError::statement("Table functions cannot be used with aggregations."));
        }
        if refused.is_empty() {
            return Ok(());
        }
        let (verb, names) = match refused.as_slice() {
            [one] => ("function", one.clone()),
            [many @ .., last] => ("functions", format!("{} and {last}", many.join(", "))),
            [] => ("function", String::new()),
        };
        Err(SqlError::statement(format!(
            "The aggregation {verb} {names} cannot be applied to a table source, only to a stream source."
        )))
    }

    fn undo_missing(&self, call: &Expr) -> bool {
        matches!(
            call_name(call).as_str(),
            "MIN"
                | "MAX"
                | "TOPK"
                | "TOPKDISTINCT"
                | "LATEST_BY_OFFSET"
                | "EARLIEST_BY_OFFSET"
                | "COLLECT_SET"
                | "ATTR"
                | "COUNT_DISTINCT"
        )
    }

    /// Every select item and HAVING must be made of keys, aggregates and constants.
    fn check_items(&self) -> Result<(), SqlError> {
        if let Some(call) = self.items.iter().flat_map(|item| calls(&item.expr, is_unknown)).next() {
            let name = call_name(call);
            let error = functions::FunctionError::Unknown { name: name.clone() };
            return Err(unknown_function(&name, error).at(call.span));
        }
        let any = self
            .items
            .iter()
            .map(|item| &item.expr)
            .chain(self.having)
            .any(|e| !calls(e, is_aggregate).is_empty());
        if !any {
            return Err(SqlError::statement(
                "GROUP BY requires aggregate functions in either the SELECT or HAVING clause.",
            )
            .at(self.query.span));
        }
        let mut bad = Vec::new();
        for item in self.items {
            if !self.leftovers(&item.expr).is_empty() {
                bad.push(self.text(&item.expr));
            }
        }
        if !bad.is_empty() {
            let error = SqlError::statement(format!(
                "Non-aggregate SELECT expression(s) not part of GROUP BY: {}\nEither add the column(s) to the GROUP BY or remove them from the SELECT.",
                bad.join(", ")
            ));
            return Err(error.at(self.query.span));
        }
        if let Some(having) = self.having {
            let left = self.leftovers(having);
            if !left.is_empty() {
                let left: Vec<_> = left.iter().map(|expr| self.text(expr)).collect();
                return Err(SqlError::statement(format!(
                    "Non-aggregate HAVING expression not part of GROUP BY: {}",
                    left.join(", ")
                ))
                .at(having.span));
            }
        }
        if self.by.is_empty() {
            let aggregates: Vec<_> = self
                .items
                .iter()
                .flat_map(|item| calls(&item.expr, is_aggregate))
                .map(|call| self.row_counted(call))
                .collect();
            return Err(SqlError::statement(format!(
                "{} statement does not support aggregate function [{}] without a GROUP BY clause.",
                self.statement,
                aggregates.join(", ")
            )));
        }
        Ok(())
    }

    fn row_counted(&self, call: &Expr) -> String {
        match &call.kind {
            ExprKind::Call { name, star: true, .. } => format!("{name}(ROWTIME)"),
            _ => self.text(call),
        }
    }

    fn leftovers<'e>(&self, expr: &'e Expr) -> Vec<&'e Expr> {
        let mut found = Vec::new();
        let windowed = self.query.window.is_some();
        expr.walk(&mut |expr| {
            if self.by.contains(expr) || is_aggregate(expr) {
                return false;
            }
            if let ExprKind::Column { qualifier, name } = &expr.kind {
                let bound = windowed && qualifier.is_none() && is_window_bound(name);
                if !bound && (qualifier.is_some()) {
                    found.push(expr);
                }
            }
            true
        });
        found
    }

    fn key(&self, input: &Rel) -> Result<Vec<NamedExpr>, SqlError> {
        let mut key = Vec::new();
        for expr in self.by {
            self.refuse_bounds(expr)?;
            let typed = Checker::new(self.catalog, &input.cols, self.names).value(expr)?;
            let name = (self.generated)(expr);
            key.push(NamedExpr { name, expr: typed });
        }
        let columns: Vec<_> =
            key.iter().map(|key| herdsman_stream::Column::new(key.name.clone(), key.expr.ty())).collect();
        check_key_types(&columns)?;
        Ok(key)
    }

    fn refuse_bounds(&self, expr: &Expr) -> Result<(), SqlError> {
        let mut found: Option<(String, Span)> = None;
        expr.walk(&mut |expr| {
            if let ExprKind::Column { qualifier: None, name } = &expr.kind
                && is_window_bound(name)
                && found.is_none()
            {
                found = Some((name.clone(), expr.span));
            }
            true
        });
        match found {
            Some((name, span)) if self.query.window.is_some() => Err(SqlError::statement(format!(
                "Window bounds column {name} can only be used in the SELECT clause of windowed aggregations and can not be passed to aggregate functions.\nSee https://github.com/confluentinc/ksql/issues/4397"
            ))
            .at(span)),
            _ => Ok(()),
        }
    }

    /// Whether the grouping columns are just the input's key columns.
    fn keeps_key(&self, input: &Rel) -> bool {
        input.key_len == self.by.len()
            && input.keys.len() == self.by.len()
            && self.by.iter().zip(&input.keys).all(|(by, key)| key.contains(by))
    }

    fn rekeyed(&self, input: Rel, key: Vec<NamedExpr>) -> Rel {
        let contains_old = !input.keys.is_empty()
            && input.keys.iter().all(|old| old.iter().any(|expr| self.by.contains(expr)))
            && !input.table;
        let key_format = fitting(self.key_format.clone(), &key);
        let keep =
            |col: &Col| self.needed.iter().any(|(alias, name)| *alias == col.alias && *name == col.name);
        let mut rel = input.rekeyed(key, &keep, if contains_old { None } else { Some(key_format.clone()) });
        rel.key_format = key_format;
        rel
    }

    fn aggregate(&self, input: Rel) -> Result<Grouped, SqlError> {
        if let Some(having) = self.having {
            self.refuse_bounds(having)?;
        }
        let mut distinct: Vec<Expr> = Vec::new();
        let all = self.items.iter().map(|item| &item.expr).chain(self.having);
        for call in all.flat_map(|expr| calls(expr, is_aggregate)) {
            if !distinct.contains(call) {
                distinct.push(call.clone());
            }
        }
        let mut cols: Vec<Col> = input.cols.iter().take(input.key_len).cloned().collect();
        let mut replace: Vec<(Expr, usize)> =
            self.by.iter().cloned().enumerate().map(|(at, expr)| (expr, at)).collect();
        let mut aggregates = Vec::new();
        let mut names = Vec::new();
        for (index, call) in distinct.into_iter().enumerate() {
            let resolved = self.call(&input, &call)?;
            let name = format!("KSQL_AGG_VARIABLE_{index}");
            replace.push((call, cols.len()));
            cols.push(Col {
                alias: String::new(),
                name: name.clone(),
                ty: resolved.function.return_type.clone(),
            });
            aggregates.push(resolved);
            names.push(name);
        }
        let window_bounds = self.query.window.is_some();
        if window_bounds {
            for name in ["WINDOWSTART", "WINDOWEND"] {
                cols.push(Col { alias: String::new(), name: name.to_owned(), ty: SqlType::BigInt });
            }
        }
        let emit = if self.query.emit == Some(Emit::Final) { PlanEmit::Final } else { PlanEmit::Changes };
        let node = Node::Aggregate {
            input: Box::new(input.node),
            from_table: input.table,
            aggregates,
            names,
            window: self.query.window.as_ref().map(|window| window_spec(window, emit == PlanEmit::Final)),
            emit,
            window_bounds,
        };
        let window = self.query.window.as_ref().map(key_window).or(input.window);
        let keys = self.by.iter().map(|expr| vec![expr.clone()]).collect();
        Ok(Grouped { rel: Rel { node, cols, table: true, window, keys, ..input }, replace })
    }

    fn call(&self, input: &Rel, call: &Expr) -> Result<AggregateCall, SqlError> {
        let ExprKind::Call { name, args, .. } = &call.kind else {
            return Err(SqlError::statement("an aggregate is a function call").at(call.span));
        };
        let literal_count = aggregate::literal_args(name, args.len()).min(args.len());
        let (columns, literals) = args.split_at(args.len() - literal_count);
        for arg in args {
            self.refuse_bounds(arg)?;
        }
        let mut checker = Checker::new(self.catalog, &input.cols, self.names);
        let typed = columns.iter().map(|arg| checker.value(arg)).collect::<Result<Vec<_>, _>>()?;
        let mut values = Vec::new();
        for (index, literal) in literals.iter().enumerate() {
            match checker.check(literal)? {
                Some(Typed::Literal { value, .. }) => values.push(value),
                Some(Typed::Negate(inner)) if matches!(*inner, Typed::Literal { .. }) => {
                    values.push(Value::Null)
                }
                None => values.push(Value::Null),
                Some(_) => {
                    return Err(SqlError::statement(format!(
                        "Parameter {} passed to function {name} must be a literal constant, but was expression: '{}'",
                        columns.len() + index + 1,
                        self.text(literal)
                    ))
                    .at(literal.span));
                }
            }
        }
        let types: Vec<SqlType> = typed.iter().map(Typed::ty).collect();
        let resolved = aggregate::resolve(name, &types, &values)
            .map_err(|error| unknown_function(name, error).at(call.span))?;
        let args = typed.into_iter().zip(&resolved.arg_types).map(|(arg, ty)| cast_to(arg, ty)).collect();
        Ok(AggregateCall { function: resolved.function, args })
    }
}

/// `format`, or JSON where it cannot hold the key (the sink's own check comes later).
fn fitting(format: herdsman_formats::FormatSpec, key: &[NamedExpr]) -> herdsman_formats::FormatSpec {
    let columns: Vec<_> =
        key.iter().map(|key| herdsman_stream::Column::new(key.name.clone(), key.expr.ty())).collect();
    let built = matches!(
        format.format,
        herdsman_formats::Format::Json
            | herdsman_formats::Format::Delimited
            | herdsman_formats::Format::Kafka
    );
    if built && crate::with::check_format(format.format, &columns, true).is_ok() {
        format
    } else {
        herdsman_formats::FormatSpec::new(herdsman_formats::Format::Json)
    }
}

pub(crate) fn call_name(call: &Expr) -> String {
    match &call.kind {
        ExprKind::Call { name, .. } => name.clone(),
        _ => String::new(),
    }
}

fn window_spec(window: &Window, last_only: bool) -> WindowSpec {
    let (plan, size_ms) = match window.kind {
        WindowKind::Tumbling { size_ms } => (PlanWindow::Tumbling { size_ms }, size_ms),
        WindowKind::Hopping { size_ms, advance_ms } => (PlanWindow::Hopping { size_ms, advance_ms }, size_ms),
        WindowKind::Session { gap_ms } => (PlanWindow::Session { gap_ms }, gap_ms),
    };
    let grace_ms = window.grace_ms.unwrap_or(if last_only { 0 } else { (DAY_MS - size_ms).max(0) });
    let least = size_ms.saturating_add(grace_ms);
    WindowSpec { window: plan, grace_ms, retention_ms: window.retention_ms.unwrap_or(least).max(least) }
}

pub(crate) fn key_window(window: &Window) -> KeyWindow {
    match window.kind {
        WindowKind::Tumbling { size_ms } => {
            KeyWindow { kind: WindowKindName::Tumbling, size_ms: Some(size_ms) }
        }
        WindowKind::Hopping { size_ms, .. } => {
            KeyWindow { kind: WindowKindName::Hopping, size_ms: Some(size_ms) }
        }
        WindowKind::Session { .. } => KeyWindow { kind: WindowKindName::Session, size_ms: None },
    }
}

/// HAVING over the aggregated relation.
pub(crate) fn having(
    catalog: &Catalog,
    grouped: &Grouped,
    having: &Expr,
    names: Names,
) -> Result<Typed, SqlError> {
    let mut checker = Checker::new(catalog, &grouped.rel.cols, names);
    checker.replace = &grouped.replace;
    checker.condition(having, Clause::Having.name())
}
