//! Names in a query: which source each column belongs to, and what `*` and unnamed select items are called.

use std::sync::Arc;

use crate::ast::{Expr, ExprKind, Query, SelectItem, SourceRef, Span};
use crate::catalog::{Catalog, Source};
use crate::diagnostic::{SqlError, line_column, nearest};
use herdsman_stream::SqlType;

/// The sources of a query under their aliases, in FROM order.
pub(crate) struct Scope {
    pub sources: Vec<(String, Arc<Source>)>,
    /// WINDOWSTART and WINDOWEND of this query's own window may be selected.
    pub windowed_aggregate: bool,
    /// The whole script, for `Line: 3, Col: 77`.
    pub script: Arc<str>,
}

/// Where a name stands; its word begins ksqlDB's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clause {
    Select,
    Where,
    JoinOn,
    GroupBy,
    PartitionBy,
    Having,
    OrderBy,
}

impl Clause {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Select => "SELECT",
            Self::Where => "WHERE",
            Self::JoinOn => "JOIN ON",
            Self::GroupBy => "GROUP BY",
            Self::PartitionBy => "PARTITION BY",
            Self::Having => "HAVING",
            Self::OrderBy => "ORDER BY",
        }
    }
}

/// A select item after expansion: expression over qualified columns, and its name in the result.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub expr: Expr,
    pub alias: String,
    /// Whether the user wrote it, and not a star.
    pub written: bool,
}

impl Scope {
    pub(crate) fn new(catalog: &Catalog, query: &Query, script: Arc<str>) -> Result<Self, SqlError> {
        let mut sources: Vec<(String, Arc<Source>)> = Vec::new();
        let refs: Vec<&SourceRef> =
            std::iter::once(&query.from).chain(query.joins.iter().map(|join| &join.source)).collect();
        for source in &refs {
            let found = catalog
                .source(&source.name)
                .map_err(|error| error.prefixed("Failed to prepare statement: "))?;
            let alias = source.alias.as_ref().unwrap_or(&source.name).text.clone();
            let twice = sources.iter().any(|(_, other)| other.name == found.name);
            if twice && refs.len() > 2 {
                return Err(SqlError::statement(format!(
                    "N-way joins do not support multiple occurrences of the same source. Source: '{}'.",
                    found.name
                ))
                .at(source.name.span));
            }
            if twice {
                return Err(SqlError::statement(format!(
                    "Can not join '{0}' to '{0}': self joins are not yet supported.",
                    found.name
                ))
                .at(source.name.span));
            }
            sources.push((alias, Arc::clone(found)));
        }
        Ok(Self { sources, windowed_aggregate: query.window.is_some(), script })
    }

    pub(crate) fn join(&self) -> bool {
        self.sources.len() > 1
    }

    /// The name of a join key that no source column stands for: ROWKEY, or ROWKEY_1 … if sources have that name.
    pub(crate) fn synthetic_key(&self) -> String {
        let taken =
            |name: &str| self.sources.iter().any(|(_, s)| s.columns().any(|column| column.name == name));
        std::iter::once("ROWKEY".to_owned())
            .chain((1..).map(|number| format!("ROWKEY_{number}")))
            .find(|name| !taken(name))
            .unwrap_or_default()
    }

    /// Refuses qualifiers that are no alias, before anything else is said about the query.
    pub(crate) fn check_aliases(&self, expr: &Expr) -> Result<(), SqlError> {
        let mut unknown = None;
        expr.walk(&mut |expr| {
            if let ExprKind::Column { qualifier: Some(alias), .. } = &expr.kind
                && unknown.is_none()
                && !self.sources.iter().any(|(known, _)| known == alias)
            {
                unknown = Some((alias.clone(), expr.span));
            }
            true
        });
        unknown.map_or(Ok(()), |(alias, span)| Err(self.unknown_alias(&alias, span)))
    }

    fn has(source: &Source, name: &str) -> bool {
        source.columns().any(|column| column.name == name) || source.system_column(name).is_some()
    }

    fn owners(&self, name: &str) -> Vec<&str> {
        self.sources
            .iter()
            .filter(|(_, source)| Self::has(source, name))
            .map(|(alias, _)| alias.as_str())
            .collect()
    }

    /// Gives every column of `expr` its source's alias.
    pub(crate) fn qualify(&self, expr: &mut Expr, clause: Clause) -> Result<(), SqlError> {
        self.qualify_within(expr, clause, &mut Vec::new())
    }

    fn qualify_within(
        &self,
        expr: &mut Expr,
        clause: Clause,
        params: &mut Vec<String>,
    ) -> Result<(), SqlError> {
        let span = expr.span;
        match &mut expr.kind {
            ExprKind::Column { qualifier, name } => {
                if qualifier.is_none() && params.contains(name) {
                    return Ok(());
                }
                *qualifier = self.owner(qualifier.as_deref(), name, clause, span)?;
                Ok(())
            }
            ExprKind::Lambda { params: own, body } => {
                let before = params.len();
                params.extend(own.iter().cloned());
                let done = self.qualify_within(body, clause, params);
                params.truncate(before);
                done
            }
            _ => {
                for child in expr.children_mut() {
                    self.qualify_within(child, clause, params)?;
                }
                Ok(())
            }
        }
    }

    fn owner(
        &self,
        qualifier: Option<&str>,
        name: &str,
        clause: Clause,
        span: Span,
    ) -> Result<Option<String>, SqlError> {
        if let Some(alias) = qualifier {
            let Some((_, source)) = self.sources.iter().find(|(known, _)| known == alias) else {
                return Err(self.unknown_alias(alias, span));
            };
            if Self::has(source, name) || (self.windowed_aggregate && is_window_bound(name)) {
                return Ok(Some(alias.to_owned()));
            }
            return Err(self.unresolved(&format!("{alias}.{name}"), clause, span));
        }
        if self.windowed_aggregate
            && is_window_bound(name)
            && matches!(clause, Clause::Select | Clause::Having)
        {
            return Ok(None);
        }
        match self.owners(name).as_slice() {
            [alias] => Ok(Some((*alias).to_owned())),
            [] if self.windowed_aggregate && is_window_bound(name) => Ok(None),
            [] if self.join() && name == self.synthetic_key() => Ok(None),
            [] => Err(self.unresolved(name, clause, span)),
            several => {
                let (line, column) = line_column(&self.script, span.start);
                let could: Vec<_> = several.iter().map(|alias| format!("{alias}.{name}")).collect();
                Err(SqlError::statement(format!(
                    "Exception while preparing statement: Line: {line}, Col: {column}: Column '{name}' is ambiguous. Could be {}.",
                    could.join(" or ")
                ))
                .at(span)
                .help(format!("write {}", could.join(" or "))))
            }
        }
    }

    pub(crate) fn unknown_alias(&self, alias: &str, span: Span) -> SqlError {
        let error = SqlError::statement(format!(
            "Failed to prepare statement: '{alias}' is not a valid stream/table name or alias."
        ))
        .at(span);
        match nearest(alias, self.sources.iter().map(|(known, _)| known.as_str())) {
            Some(known) => error.help(format!("did you mean {known}?")),
            None => error,
        }
    }

    /// `SELECT column 'HUNTR' cannot be resolved.` with what the source has instead.
    fn unresolved(&self, name: &str, clause: Clause, span: Span) -> SqlError {
        let (line, column) = line_column(&self.script, span.start);
        let mut message =
            format!("Line: {line}, Col: {column}: {} column '{name}' cannot be resolved.", clause.name());
        if clause == Clause::PartitionBy {
            message.push_str(&format!(
                " '{name}' must be a column in the source schema since PARTITION BY is applied on the input."
            ));
        }
        let bare = name.rsplit('.').next().unwrap_or(name);
        let alias = name.rsplit_once('.').map(|(alias, _)| alias);
        let sources: Vec<_> =
            self.sources.iter().filter(|(known, _)| alias.is_none_or(|alias| alias == known)).collect();
        let known: Vec<&str> = sources
            .iter()
            .flat_map(|(_, source)| source.columns().map(|column| column.name.as_str()))
            .collect();
        let owners: Vec<&str> = sources.iter().map(|(_, source)| source.name.as_str()).collect();
        let has = format!("{} has no column {bare}", owners.join(" or "));
        let listed = known.iter().take(12).copied().collect::<Vec<_>>().join(", ");
        let error = SqlError::statement(message).at(span);
        match nearest(bare, known.iter().copied()) {
            Some(near) => error.help(format!("{has}: did you mean {near}? It has {listed}")),
            None => error.help(format!("{has}. It has {listed}")),
        }
    }

    /// Expands stars, qualifies names, gives every item its alias.
    pub(crate) fn items(
        &self,
        query: &Query,
        star: &dyn Fn(Option<&str>) -> Vec<Item>,
    ) -> Result<Vec<Item>, SqlError> {
        let mut aliases = Aliases::new(self);
        let mut items = Vec::new();
        for item in &query.items {
            match item {
                SelectItem::All { qualifier: Some(alias), span } => {
                    if !self.sources.iter().any(|(known, _)| *known == alias.text) {
                        return Err(self.unknown_alias(&alias.text, *span));
                    }
                    items.extend(star(Some(&alias.text)));
                }
                SelectItem::All { qualifier: None, .. } => items.extend(star(None)),
                SelectItem::Single { expr, alias } => {
                    let mut expr = expr.clone();
                    if let ExprKind::AllFields(input) = &mut expr.kind {
                        self.qualify(input, Clause::Select)?;
                        items.extend(self.fields(input, &mut aliases)?);
                        continue;
                    }
                    self.qualify(&mut expr, Clause::Select)?;
                    let alias = match alias {
                        Some(alias) => alias.text.clone(),
                        None => aliases.of(self, &expr),
                    };
                    items.push(Item { expr, alias, written: true });
                }
            }
        }
        Ok(items)
    }

    fn fields(&self, input: &Expr, aliases: &mut Aliases) -> Result<Vec<Item>, SqlError> {
        let not_struct = || SqlError::statement("->* needs a STRUCT before it").at(input.span);
        let Some(SqlType::Struct(fields)) = self.plain_type(input) else { return Err(not_struct()) };
        Ok(fields
            .into_iter()
            .map(|field| {
                let kind = ExprKind::Field { input: Box::new(input.clone()), name: field.name };
                let expr = Expr::new(kind, input.span);
                let alias = aliases.of(self, &expr);
                Item { expr, alias, written: true }
            })
            .collect())
    }

    /// The type of a column or a field path (all that may stand before `->*`).
    fn plain_type(&self, expr: &Expr) -> Option<SqlType> {
        match &expr.kind {
            ExprKind::Column { qualifier, name } => {
                let (_, source) = self.sources.iter().find(|(alias, _)| Some(alias) == qualifier.as_ref())?;
                source.columns().find(|column| column.name == *name).map(|column| column.ty.clone())
            }
            ExprKind::Field { input, name } => match self.plain_type(input)? {
                SqlType::Struct(fields) => {
                    fields.into_iter().find(|field| field.name == *name).map(|field| field.ty)
                }
                _ => None,
            },
            ExprKind::Subscript { input, .. } => match self.plain_type(input)? {
                SqlType::Array(element) => Some(*element),
                SqlType::Map(_, value) => Some(*value),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether a column of that name is in several sources, so that its result name carries the alias.
    pub(crate) fn clashes(&self, name: &str) -> bool {
        self.owners(name).len() > 1
    }
}

pub(crate) fn is_window_bound(name: &str) -> bool {
    matches!(name, "WINDOWSTART" | "WINDOWEND")
}

/// Generates result names: `KSQL_COL_0`, field names made unique.
pub(crate) struct Aliases {
    next: usize,
    /// Numbers that columns of the sources have already.
    taken: Vec<usize>,
    used_fields: Vec<String>,
}

impl Aliases {
    pub(crate) fn new(scope: &Scope) -> Self {
        let taken = scope
            .sources
            .iter()
            .flat_map(|(_, source)| source.columns())
            .filter_map(|column| column.name.strip_prefix("KSQL_COL_")?.parse::<usize>().ok());
        Self { next: 0, taken: taken.collect(), used_fields: Vec::new() }
    }

    /// The name of an item without AS.
    pub(crate) fn of(&mut self, scope: &Scope, expr: &Expr) -> String {
        match &expr.kind {
            ExprKind::Column { qualifier: Some(alias), name } if scope.join() && scope.clashes(name) => {
                format!("{alias}_{name}")
            }
            ExprKind::Column { name, .. } => name.clone(),
            ExprKind::Field { name, .. } => self.field(scope, name),
            _ => self.generated(),
        }
    }

    pub(crate) fn generated(&mut self) -> String {
        while self.taken.contains(&self.next) {
            self.next += 1;
        }
        self.next += 1;
        format!("KSQL_COL_{}", self.next - 1)
    }

    fn field(&mut self, scope: &Scope, name: &str) -> String {
        let taken = |candidate: &str, used: &[String]| {
            used.iter().any(|used| used == candidate)
                || scope
                    .sources
                    .iter()
                    .any(|(_, source)| source.columns().any(|column| column.name == candidate))
        };
        let mut candidate = name.to_owned();
        let mut count = 0;
        while taken(&candidate, &self.used_fields) {
            count += 1;
            candidate = format!("{name}_{count}");
        }
        self.used_fields.push(candidate.clone());
        candidate
    }
}
