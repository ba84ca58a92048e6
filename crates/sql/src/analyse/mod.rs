//! From a parsed query to a plan: names, types, keys, and ksqlDB's rules about them.

mod aggregate;
mod projection;
pub(crate) mod pull;
mod pushdown;
mod relation;
mod scope;
mod timestamp;
mod types;

use std::sync::Arc;

use herdsman_formats::{Format, FormatSpec};
use herdsman_stream::functions::{self, ArgType};
use herdsman_stream::plan::{NamedExpr, Node};
use herdsman_stream::{Column, Schema};

use crate::ast::{Emit, Expr, ExprKind, Query, Span};
use crate::catalog::{Catalog, KeyWindow, Source, check_key_types};
use crate::diagnostic::SqlError;
use crate::printer::Names;
use aggregate::{Grouping, calls, is_aggregate, is_table_function};
use projection::{KeyOrigin, Projection};
use relation::{Needed, Rel, collect, column};
pub(crate) use scope::Item;
use scope::{Aliases, Clause, Scope};
pub(crate) use types::{Checker, Col, cast_to};

/// What the result of a query is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose<'a> {
    /// A persistent query that writes this source, with the formats its WITH clause names.
    Persistent {
        /// Name of the stream or table written.
        target: &'a str,
        /// KEY_FORMAT, if given.
        key_format: Option<Format>,
        /// VALUE_FORMAT, if given.
        value_format: Option<Format>,
    },
    /// A push query.
    Push,
}

/// A planned query without its sink.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    pub root: Node,
    pub schema: Schema,
    pub table: bool,
    pub window: Option<KeyWindow>,
    pub partitions: i32,
    pub key_format: FormatSpec,
    pub value_format: FormatSpec,
    /// Names of the sources read.
    pub sources: Vec<String>,
}

/// Plans `query`. `script` is the text its spans refer to.
pub(crate) fn plan(
    catalog: &Catalog,
    query: &Query,
    purpose: Purpose<'_>,
    script: Arc<str>,
) -> Result<Planned, SqlError> {
    let scope = Scope::new(catalog, query, script)?;
    if matches!(purpose, Purpose::Persistent { .. }) {
        projection::refuse_reserved(query)?;
    }
    let query = &qualified(&scope, query)?;
    Planner { catalog, scope: &scope, query, purpose }.plan()
}

/// A query whose names are resolved, for those who write it in another dialect.
pub(crate) struct Resolved {
    pub items: Vec<Item>,
    /// Every column outside SELECT carries its alias.
    pub query: Query,
    pub sources: Vec<(String, Arc<Source>)>,
}

/// Resolves names and stars of `query` without planning it.
pub(crate) fn resolve(
    catalog: &Catalog,
    query: &Query,
    purpose: Purpose<'_>,
    script: Arc<str>,
) -> Result<Resolved, SqlError> {
    let scope = Scope::new(catalog, query, script)?;
    let query = qualified(&scope, query)?;
    let items = {
        let planner = Planner { catalog, scope: &scope, query: &query, purpose };
        scope.items(&query, &|alias| planner.star(alias))?
    };
    Ok(Resolved { items, query, sources: scope.sources })
}

/// The query with every column outside SELECT qualified.
fn qualified(scope: &Scope, query: &Query) -> Result<Query, SqlError> {
    let mut query = query.clone();
    let joins = query.joins.iter().map(|join| &join.on);
    for expr in joins.chain(&query.filter).chain(query.group_by.iter().flatten()).chain(&query.having) {
        scope.check_aliases(expr)?;
    }
    for join in &mut query.joins {
        scope.qualify(&mut join.on, Clause::JoinOn)?;
    }
    if let Some(filter) = &mut query.filter {
        scope.qualify(filter, Clause::Where)?;
    }
    for expr in query.group_by.iter_mut().flatten() {
        scope.qualify(expr, Clause::GroupBy)?;
    }
    for expr in query.partition_by.iter_mut().flatten() {
        scope.qualify(expr, Clause::PartitionBy)?;
    }
    if let Some(having) = &mut query.having {
        scope.qualify(having, Clause::Having)?;
    }
    Ok(query)
}

struct Planner<'a> {
    catalog: &'a Catalog,
    scope: &'a Scope,
    query: &'a Query,
    purpose: Purpose<'a>,
}

impl Planner<'_> {
    fn plan(&self) -> Result<Planned, SqlError> {
        let names = if self.scope.join() { Names::Joined } else { Names::Bare };
        let items = self.scope.items(self.query, &|alias| self.star(alias))?;
        self.check_clauses(&items)?;
        let needed = self.needed(&items);
        let mut rel = relation::joined(self.catalog, self.scope, &self.query.joins, &needed)?;
        let origin = if self.scope.join() { KeyOrigin::Join } else { KeyOrigin::Source };
        if let Some(filter) = &self.query.filter {
            let predicate =
                Checker::new(self.catalog, &rel.cols, names).condition(filter, Clause::Where.name())?;
            rel.node = pushdown::filtered(rel.node, predicate);
        }
        let aggregated = self.query.group_by.is_some()
            || items.iter().any(|item| !calls(&item.expr, is_aggregate).is_empty())
            || self.query.having.is_some();
        let (rel, replace, origin) = if aggregated {
            let (rel, replace) = self.grouped(rel, &items, names, &needed)?;
            (rel, replace, KeyOrigin::Grouping)
        } else if let Some(by) = &self.query.partition_by {
            let (rel, replace) = self.partitioned(rel, by, &items, names)?;
            (rel, replace, KeyOrigin::Partitioning)
        } else {
            (rel, Vec::new(), origin)
        };
        let (rel, replace) = self.exploded(rel, replace, &items, names)?;
        let projection = Projection {
            catalog: self.catalog,
            items: &items,
            replace: &replace,
            names,
            origin,
            span: self.query.span,
        };
        let (root, schema) = match self.purpose {
            Purpose::Persistent { target, .. } => projection.persistent(&rel, target)?,
            Purpose::Push => projection.all_values(&rel)?,
        };
        let by_nothing = self.query.partition_by.is_some() && schema.key.is_empty();
        let first = self.scope.sources.first().map(|(_, source)| source);
        Ok(Planned {
            root,
            schema,
            table: rel.table,
            window: rel.window,
            partitions: rel.partitions,
            key_format: match first {
                _ if by_nothing => FormatSpec::new(Format::None),
                Some(source) => source.key_format.clone(),
                None => rel.key_format,
            },
            value_format: first.map_or(rel.value_format, |source| source.value_format.clone()),
            sources: self.scope.sources.iter().map(|(_, source)| source.name.clone()).collect(),
        })
    }

    fn check_clauses(&self, items: &[Item]) -> Result<(), SqlError> {
        let query = self.query;
        let persistent = matches!(self.purpose, Purpose::Persistent { .. });
        let refused = |message: &str| Err(SqlError::statement(message).at(query.span));
        if !query.order_by.is_empty() || query.offset.is_some() {
            return refused(
                "ORDER BY and OFFSET need a result that ends: they are for pull queries (without EMIT)",
            );
        }
        let aggregates = items.iter().any(|item| !calls(&item.expr, is_aggregate).is_empty());
        if query.emit == Some(Emit::Final)
            && (query.window.is_none() || (query.group_by.is_none() && !aggregates))
        {
            return refused("EMIT FINAL is only supported for windowed aggregations.");
        }
        if query.window.is_some() && query.group_by.is_none() && !aggregates {
            return refused("WINDOW clause requires a GROUP BY clause.");
        }
        if query.partition_by.is_some() {
            if query.group_by.is_some() {
                return refused("Only one of PARTITION BY or GROUP BY can be used in one query.");
            }
            if self.scope.sources.first().is_some_and(|(_, source)| source.table) {
                return refused("PARTITION BY clause is not supported for tables");
            }
        }
        if persistent {
            let windowed = |source: &Source| source.table && source.window.is_some();
            if self.scope.sources.iter().any(|(_, source)| windowed(source)) {
                return refused("KSQL does not support persistent queries on windowed tables.");
            }
        }
        Ok(())
    }

    /// What `*` or `alias.*` stands for.
    fn star(&self, alias: Option<&str>) -> Vec<Item> {
        let join = self.scope.join();
        let mut items = Vec::new();
        if alias.is_none() && join && self.synthetic() {
            items.push(Item {
                expr: column("", &self.scope.synthetic_key(), Span::default()),
                alias: self.scope.synthetic_key(),
                written: false,
            });
        }
        if alias.is_none() && !join {
            items.extend(self.partition_star());
        }
        for (own, source) in
            self.scope.sources.iter().filter(|(own, _)| alias.is_none_or(|alias| alias == own))
        {
            let mut add = |name: &str| {
                let alias = if join { format!("{own}_{name}") } else { name.to_owned() };
                items.push(Item { expr: column(own, name, Span::default()), alias, written: false });
            };
            if self.query.partition_by.is_some() {
                source.order.iter().for_each(|name| add(name));
                source.schema.key.iter().for_each(|key| add(&key.name));
                continue;
            }
            source.schema.key.iter().for_each(|key| add(&key.name));
            if self.purpose == Purpose::Push && source.window.is_some() && self.query.group_by.is_none() {
                add("WINDOWSTART");
                add("WINDOWEND");
            }
            source.order.iter().for_each(|name| add(name));
        }
        items
    }

    /// Keys that PARTITION BY computes come first in `*`.
    fn partition_star(&self) -> Vec<Item> {
        let mut items = Vec::new();
        let by = self.query.partition_by.as_deref().unwrap_or_default();
        let in_star = |expr: &Expr| match &expr.kind {
            ExprKind::Column { name, .. } => {
                self.scope.sources.iter().any(|(_, s)| s.columns().any(|c| c.name == *name))
            }
            kind => *kind == ExprKind::Null,
        };
        for expr in by.iter().filter(|expr| !in_star(expr)) {
            items.push(Item { expr: expr.clone(), alias: self.key_name(expr, &[]), written: false });
        }
        items
    }

    /// Whether the last join has no column that could be its key.
    fn synthetic(&self) -> bool {
        let Some(join) = self.query.joins.last() else { return false };
        if self.scope.sources.iter().any(|(alias, source)| {
            source.cache.is_some() && join.source.alias.as_ref().unwrap_or(&join.source.name).text == *alias
        }) {
            return false;
        }
        let columns = match &join.on.kind {
            ExprKind::Compare { left, right, .. } => {
                [left, right].iter().any(|side| matches!(side.kind, ExprKind::Column { .. }))
            }
            _ => true,
        };
        join.kind == crate::ast::JoinKind::Outer || !columns
    }

    fn needed(&self, items: &[Item]) -> Needed {
        let mut needed = Needed::new();
        let query = self.query;
        let all = items
            .iter()
            .map(|item| &item.expr)
            .chain(query.joins.iter().map(|join| &join.on))
            .chain(&query.filter)
            .chain(query.group_by.iter().flatten())
            .chain(query.partition_by.iter().flatten())
            .chain(&query.having);
        for expr in all {
            collect(expr, &mut needed);
        }
        needed
    }

    fn grouped(
        &self,
        rel: Rel,
        items: &[Item],
        names: Names,
        needed: &Needed,
    ) -> Result<(Rel, Vec<(Expr, usize)>), SqlError> {
        // A push query may aggregate without GROUP BY: all rows are one group.
        let everything = [Expr::new(ExprKind::Boolean(true), self.query.span)];
        let by = match (&self.query.group_by, self.purpose) {
            (Some(by), _) if !by.is_empty() => by.as_slice(),
            (_, Purpose::Push) => &everything,
            _ => &[],
        };
        let internal = self.internal_key_format(&rel);
        self.check_intermediates(items)?;
        let grouping = Grouping {
            catalog: self.catalog,
            query: self.query,
            items,
            by,
            having: self.query.having.as_ref(),
            names,
            needed,
            key_format: internal,
            generated: &|expr| self.key_name(expr, items),
            statement: match self.purpose {
                Purpose::Persistent { .. } => "CREATE TABLE AS SELECT",
                Purpose::Push => "SELECT",
            },
        };
        let mut grouped = grouping.plan(rel)?;
        if let Some(having) = &self.query.having {
            let predicate = aggregate::having(self.catalog, &grouped, having, names)?;
            grouped.rel.node = Node::Filter { input: Box::new(grouped.rel.node), predicate };
        }
        Ok((grouped.rel, grouped.replace))
    }

    /// The key format of repartition topics: what the sink will have.
    fn internal_key_format(&self, rel: &Rel) -> FormatSpec {
        match self.purpose {
            Purpose::Persistent { key_format: Some(format), .. } => FormatSpec::new(format),
            _ => rel.key_format.clone(),
        }
    }

    /// Aggregates whose intermediate results are structured do not fit flat formats in ksqlDB.
    fn check_intermediates(&self, items: &[Item]) -> Result<(), SqlError> {
        let Purpose::Persistent { value_format, .. } = self.purpose else { return Ok(()) };
        let inherited = self.scope.sources.first().map(|(_, source)| source.value_format.format);
        let flat = matches!(value_format.or(inherited), Some(Format::Delimited | Format::Kafka));
        let structured = |name: &str| {
            matches!(name, "AVG" | "TOPK" | "TOPKDISTINCT" | "STDDEV_SAMP" | "STDDEV_SAMPLE" | "CORRELATION")
        };
        let call = items
            .iter()
            .flat_map(|item| calls(&item.expr, is_aggregate))
            .find(|call| structured(&aggregate::call_name(call)));
        match call {
            Some(call) if flat => Err(SqlError::statement("One of the functions used in the statement has an intermediate type that the value format can not handle. Please remove the function or change the format.").at(call.span)),
            _ => Ok(()),
        }
    }

    /// The name of a computed key column.
    fn key_name(&self, expr: &Expr, items: &[Item]) -> String {
        if let Some(item) = items.iter().find(|item| item.expr == *expr) {
            return item.alias.clone();
        }
        Aliases::new(self.scope).of(self.scope, expr)
    }

    fn partitioned(
        &self,
        rel: Rel,
        by: &[Expr],
        items: &[Item],
        names: Names,
    ) -> Result<(Rel, Vec<(Expr, usize)>), SqlError> {
        if rel.window.is_some() {
            return Err(SqlError::statement("Implicit repartitioning of windowed sources is not supported. See https://github.com/confluentinc/ksql/issues/4385.").at(self.query.span));
        }
        let same = rel.keys.len() == by.len() && by.iter().zip(&rel.keys).all(|(by, key)| key.contains(by));
        if same {
            return Ok((rel, Vec::new()));
        }
        let by: Vec<&Expr> = by.iter().filter(|expr| expr.kind != ExprKind::Null).collect();
        let mut key = Vec::new();
        for expr in &by {
            let typed = Checker::new(self.catalog, &rel.cols, names).value(expr)?;
            key.push(NamedExpr { name: self.key_name(expr, items), expr: typed });
        }
        let columns: Vec<_> = key.iter().map(|key| Column::new(key.name.clone(), key.expr.ty())).collect();
        check_key_types(&columns)?;
        let replace = by.iter().enumerate().map(|(at, expr)| ((*expr).clone(), at)).collect();
        let keys = by.iter().map(|expr| vec![(*expr).clone()]).collect();
        let mut needed = Needed::new();
        items.iter().for_each(|item| collect(&item.expr, &mut needed));
        let keep = |col: &Col| needed.iter().any(|(alias, name)| *alias == col.alias && *name == col.name);
        let mut rel = rel.rekeyed(key, &keep, None);
        rel.keys = keys;
        Ok((rel, replace))
    }

    /// Table functions: one row becomes several.
    fn exploded(
        &self,
        mut rel: Rel,
        mut replace: Vec<(Expr, usize)>,
        items: &[Item],
        names: Names,
    ) -> Result<(Rel, Vec<(Expr, usize)>), SqlError> {
        let mut functions = Vec::new();
        let mut made = Vec::new();
        for call in items.iter().flat_map(|item| calls(&item.expr, is_table_function)) {
            if made.contains(call) {
                continue;
            }
            if rel.table {
                return Err(
                    SqlError::statement("Table source is not supported with table functions").at(call.span)
                );
            }
            let ExprKind::Call { name, args, .. } = &call.kind else { continue };
            let mut checker = Checker::new(self.catalog, &rel.cols, names);
            checker.replace = &replace;
            let typed = args.iter().map(|arg| checker.value(arg)).collect::<Result<Vec<_>, _>>()?;
            let types: Vec<ArgType> = typed.iter().map(|arg| ArgType::Value(arg.ty())).collect();
            let (function, arg_types, ty) = functions::resolve_table(name, &types)
                .map_err(|error| types::unknown_function(name, error).at(call.span))?;
            let args = typed.into_iter().zip(&arg_types).map(|(arg, ty)| cast_to(arg, ty)).collect();
            let column = Column::new(format!("KSQL_SYNTH_{}", functions.len()), ty);
            functions.push((function, args, column));
            made.push(call.clone());
        }
        if functions.is_empty() {
            return Ok((rel, replace));
        }
        for (call, (_, _, column)) in made.into_iter().zip(&functions) {
            replace.push((call, rel.cols.len()));
            rel.cols.push(Col { alias: String::new(), name: column.name.clone(), ty: column.ty.clone() });
        }
        rel.node = Node::FlatMap { input: Box::new(rel.node), functions };
        Ok((rel, replace))
    }
}
