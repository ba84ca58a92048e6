//! SELECT: key columns, value columns, and ksqlDB's rules about both.

use herdsman_stream::plan::{NamedExpr, Node};
use herdsman_stream::{Column, Schema};

use super::relation::Rel;
use super::scope::Item;
use super::types::Checker;
use crate::ast::{Expr, ExprKind, Query, SelectItem, Span};
use crate::catalog::{Catalog, check_key_types, schema_text};
use crate::diagnostic::SqlError;
use crate::printer::{self, Names};

const RESERVED: [&str; 5] = ["ROWTIME", "ROWPARTITION", "ROWOFFSET", "WINDOWSTART", "WINDOWEND"];

/// What made the key; it words the errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyOrigin {
    Source,
    Join,
    Grouping,
    Partitioning,
}

/// Refuses `SELECT WINDOWSTART` and the like without another name, before names are resolved.
pub(crate) fn refuse_reserved(query: &Query) -> Result<(), SqlError> {
    if !query.joins.is_empty() {
        return Ok(());
    }
    for item in &query.items {
        if let SelectItem::Single { expr, alias: None } = item
            && let ExprKind::Column { name, .. } = &expr.kind
            && RESERVED.contains(&name.as_str())
        {
            return Err(SqlError::statement(format!(
                "Reserved column name in select: `{name}`. Please remove or alias the column."
            ))
            .at(expr.span));
        }
    }
    Ok(())
}

pub(crate) struct Projection<'a> {
    pub catalog: &'a Catalog,
    pub items: &'a [Item],
    pub replace: &'a [(Expr, usize)],
    pub names: Names,
    pub origin: KeyOrigin,
    pub span: Span,
}

impl Projection<'_> {
    fn typed(&self, rel: &Rel, item: &Item) -> Result<NamedExpr, SqlError> {
        let mut checker = Checker::new(self.catalog, &rel.cols, self.names);
        checker.replace = self.replace;
        let expr = checker.value(&item.expr).map_err(|error| {
            if error.message.starts_with("Invalid ") || error.message.starts_with("Cast of") {
                error.prefixed("Invalid Select: ")
            } else {
                error
            }
        })?;
        Ok(NamedExpr { name: item.alias.clone(), expr })
    }

    /// All items as value columns, the key hidden: push queries.
    pub(crate) fn all_values(&self, rel: &Rel) -> Result<(Node, Schema), SqlError> {
        let columns = self.items.iter().map(|item| self.typed(rel, item)).collect::<Result<Vec<_>, _>>()?;
        let key: Vec<Column> = rel
            .cols
            .iter()
            .take(rel.key_len)
            .enumerate()
            .map(|(index, col)| Column::new(format!("{}$KEY_{index}", col.name), col.ty.clone()))
            .collect();
        Ok(self.node(rel, key, columns))
    }

    fn node(&self, rel: &Rel, key: Vec<Column>, columns: Vec<NamedExpr>) -> (Node, Schema) {
        let value = columns.iter().map(|column| Column::new(column.name.clone(), column.expr.ty())).collect();
        let node = Node::Project {
            input: Box::new(rel.node.clone()),
            key_names: key.iter().map(|column| column.name.clone()).collect(),
            columns,
        };
        (node, Schema { key, value })
    }

    /// Items split into key and value columns: persistent queries that write `target`.
    pub(crate) fn persistent(&self, rel: &Rel, target: &str) -> Result<(Node, Schema), SqlError> {
        self.check_names()?;
        let typed = self.items.iter().map(|item| self.typed(rel, item)).collect::<Result<Vec<_>, _>>()?;
        let mut is_key = vec![false; self.items.len()];
        let mut key = Vec::new();
        let mut missing = Vec::new();
        for (index, viable) in rel.keys.iter().enumerate() {
            let chosen = viable.iter().find(|expr| self.items.iter().any(|item| item.expr == **expr));
            let Some(chosen) = chosen else {
                missing.push(viable);
                continue;
            };
            let at: Vec<usize> = self
                .items
                .iter()
                .enumerate()
                .filter(|(_, item)| item.expr == *chosen)
                .map(|(at, _)| at)
                .collect();
            if let [_, _, ..] = at.as_slice() {
                return Err(self.duplicate(chosen, &at));
            }
            for at in at {
                is_key[at] = true;
                let ty = rel.cols.get(index).map(|col| col.ty.clone());
                key.push(Column::new(
                    self.items[at].alias.clone(),
                    ty.unwrap_or(herdsman_stream::SqlType::String),
                ));
            }
        }
        if !missing.is_empty() {
            return Err(self.key_missing(rel, target));
        }
        let columns: Vec<NamedExpr> = typed
            .into_iter()
            .zip(&is_key)
            .filter(|(_, is_key)| !**is_key)
            .map(|(column, _)| column)
            .collect();
        check_key_types(&key)?;
        if columns.is_empty() {
            return Err(SqlError::statement("The projection contains no value columns.").at(self.span));
        }
        let (node, schema) = self.node(rel, key, columns);
        self.check_duplicates(&schema)?;
        Ok((node, schema))
    }

    fn check_names(&self) -> Result<(), SqlError> {
        for item in self.items.iter().filter(|item| item.written) {
            let plain = matches!(&item.expr.kind, ExprKind::Column { name, .. } if *name == item.alias);
            if !RESERVED.contains(&item.alias.as_str()) {
                continue;
            }
            let message = if plain {
                format!(
                    "Reserved column name in select: `{}`. Please remove or alias the column.",
                    item.alias
                )
            } else {
                format!(
                    "`{}` is a reserved column name. You cannot use it as an alias for a column.",
                    item.alias
                )
            };
            return Err(SqlError::statement(message).at(item.expr.span));
        }
        Ok(())
    }

    fn check_duplicates(&self, schema: &Schema) -> Result<(), SqlError> {
        let keys: Vec<&str> = schema.key.iter().map(|column| column.name.as_str()).collect();
        for (index, column) in schema.key.iter().enumerate() {
            if keys[..index].contains(&column.name.as_str()) {
                let text = schema_text(std::slice::from_ref(column), &[]);
                return Err(SqlError::statement(format!("Duplicate key columns found in schema: {text}"))
                    .at(self.span));
            }
        }
        for (index, column) in schema.value.iter().enumerate() {
            let twice = schema.value.iter().take(index).any(|other| other.name == column.name);
            if twice || keys.contains(&column.name.as_str()) {
                let text = schema_text(&[], std::slice::from_ref(column));
                return Err(SqlError::statement(format!("Duplicate value columns found in schema: {text}"))
                    .at(self.span)
                    .help("give one of them another name with AS"));
            }
        }
        Ok(())
    }

    fn duplicate(&self, key: &Expr, at: &[usize]) -> SqlError {
        let mut aliases: Vec<&str> = at.iter().map(|at| self.items[*at].alias.as_str()).collect();
        aliases.sort_unstable();
        let message = if self.origin == KeyOrigin::Grouping {
            let quoted: Vec<String> = aliases.iter().map(|alias| format!("`{alias}`")).collect();
            format!("The projection contains a key column more than once: {}.", and(&quoted))
        } else {
            let owned: Vec<String> = aliases.iter().map(|alias| (*alias).to_owned()).collect();
            format!(
                "The projection contains a key column (`{}`) more than once, aliased as: {}.",
                printer::expression(key, self.names),
                and(&owned)
            )
        };
        SqlError::statement(message).at(self.span).help("AS_VALUE(key) copies a key into the value")
    }

    fn key_missing(&self, rel: &Rel, target: &str) -> SqlError {
        let names = match self.origin {
            KeyOrigin::Join | KeyOrigin::Partitioning => Names::Qualified,
            KeyOrigin::Source | KeyOrigin::Grouping => self.names,
        };
        let say = |expr: &Expr| printer::expression(expr, names);
        let joined = self.origin == KeyOrigin::Join;
        let all: Vec<String> = if joined {
            rel.keys
                .iter()
                .flatten()
                .filter(|expr| matches!(expr.kind, ExprKind::Column { .. }))
                .map(say)
                .collect()
        } else {
            rel.keys.iter().filter_map(|viable| viable.first()).map(say).collect()
        };
        let plural = if all.len() > 1 { "s" } else { "" };
        let what = match self.origin {
            KeyOrigin::Source => format!("key column{plural}"),
            KeyOrigin::Join => format!("join expression{plural}"),
            KeyOrigin::Grouping => format!("grouping expression{plural}"),
            KeyOrigin::Partitioning => format!("partitioning expression{plural}"),
        };
        let (listed, example) = if joined {
            (list(&all, "or"), all.first().cloned().unwrap_or_default())
        } else {
            (and(&all), all.join(", "))
        };
        let mut message = format!(
            "Key missing from projection (ie, SELECT). See https://cnfl.io/2LV7ouS.\nThe query used to build `{target}` must include the {what} {listed} in its projection (eg, SELECT {example}...)."
        );
        if joined && all.first().is_some_and(|name| name.starts_with("ROWKEY")) {
            message.push_str("\nROWKEY was added as a synthetic key column because the join criteria did not match any source column. This expression must be included in the projection and may be aliased.");
        }
        SqlError::statement(message).at(self.span)
    }
}

fn and(items: &[String]) -> String {
    list(items, "and")
}

fn list(items: &[String], word: &str) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [many @ .., last] => format!("{} {word} {last}", many.join(", ")),
    }
}
