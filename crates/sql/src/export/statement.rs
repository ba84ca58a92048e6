//! Statements: which become tables, which become INSERT INTO, which are refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use herdsman_stream::SqlType;

use super::expression::{ColumnText, Writer};
use super::table::{self, Spelling, spelled};
use super::{FlinkOptions, interval, quote, refuse};
use crate::analyse::{self, Col, Item, Purpose, Resolved};
use crate::ast::{Element, JoinKind, Query, Statement, StatementKind, WindowKind};
use crate::catalog::{Catalog, Source};
use crate::diagnostic::SqlError;

/// Collects the parts of the exported script.
pub(super) struct Exporter {
    options: FlinkOptions,
    graces: BTreeMap<String, i64>,
    script: Arc<str>,
    tables: Vec<String>,
    inserts: Vec<String>,
    spellings: BTreeMap<String, Spelling>,
    exported: BTreeSet<String>,
}

impl Exporter {
    pub(super) fn new(options: FlinkOptions, graces: BTreeMap<String, i64>, script: Arc<str>) -> Self {
        Self {
            options,
            graces,
            script,
            tables: Vec::new(),
            inserts: Vec::new(),
            spellings: BTreeMap::new(),
            exported: BTreeSet::new(),
        }
    }

    /// The whole script.
    pub(super) fn finish(self) -> String {
        let mut out = "-- Flink 2.2 SQL, exported from ksqlDB SQL by herdsman.\nSET 'table.local-time-zone' = 'UTC';\n\n".to_owned();
        out.push_str(&self.tables.join("\n"));
        if !self.inserts.is_empty() {
            out.push_str("\nEXECUTE STATEMENT SET\nBEGIN\n");
            out.push_str(&self.inserts.join("\n"));
            out.push_str("END;\n");
        }
        out
    }

    pub(super) fn statement(
        &mut self,
        statement: &Statement,
        before: &Catalog,
        after: &Catalog,
    ) -> Result<(), SqlError> {
        match &statement.kind {
            StatementKind::CreateSource { name, elements, .. } => {
                let source = after.source(name)?;
                if source.cache.is_some() {
                    return Err(refuse(format!(
                        "{}: a cache-backed table (WITH CACHE=…) has no Flink form, its guard is Herdsman's",
                        source.name
                    ))
                    .at(name.span));
                }
                if source.window.is_some() {
                    return Err(
                        refuse(format!("{}: a source whose key carries a window", source.name)).at(name.span)
                    );
                }
                let spelling = self.spelling(elements, after, &source.topic);
                self.table(source, spelling, false)
            }
            StatementKind::CreateAs { name, query, .. } => {
                let sink = Arc::clone(after.source(name)?);
                let insert = self.insert(&sink, query, before)?;
                self.table(&sink, Spelling::new(), true)?;
                self.inserts.push(insert);
                Ok(())
            }
            StatementKind::InsertInto { target, query, .. } => {
                let sink = Arc::clone(before.source(target)?);
                self.check_exported(&sink.name)?;
                let insert = self.insert(&sink, query, before)?;
                self.inserts.push(insert);
                Ok(())
            }
            StatementKind::CreateType { .. }
            | StatementKind::Set { .. }
            | StatementKind::Unset(_)
            | StatementKind::Define { .. }
            | StatementKind::Undefine(_)
            | StatementKind::Show(_)
            | StatementKind::Describe { .. } => Ok(()),
            StatementKind::InsertValues { target, .. } => {
                Err(refuse(format!("INSERT INTO {} VALUES: write the rows with a producer", target.text))
                    .at(target.span))
            }
            _ => Err(refuse("this kind of statement").at(statement.span)),
        }
    }

    /// Names as the script writes them, unless a query of this script writes the topic (then: as ksqlDB writes them).
    fn spelling(&self, elements: &[Element], catalog: &Catalog, topic: &str) -> Spelling {
        let made =
            catalog.sources.values().any(|source| source.topic == topic && source.created_by.is_some());
        if made {
            return Spelling::new();
        }
        let written = |element: &Element| {
            let span = element.name.span;
            let text = self.script.get(span.start..span.end).unwrap_or(&element.name.text);
            text.trim_matches(['`', '"']).to_owned()
        };
        elements.iter().map(|element| (element.name.text.clone(), written(element))).collect()
    }

    fn table(&mut self, source: &Source, spelling: Spelling, written: bool) -> Result<(), SqlError> {
        let grace_ms = self.graces.get(&source.name).copied().unwrap_or(0);
        self.tables.push(table::create(source, &spelling, grace_ms, written, &self.options)?);
        self.spellings.insert(source.name.clone(), spelling);
        self.exported.insert(source.name.clone());
        Ok(())
    }

    fn check_exported(&self, name: &str) -> Result<(), SqlError> {
        if self.exported.contains(name) {
            return Ok(());
        }
        Err(refuse(format!("it needs {name}, which could not be exported")))
    }

    fn insert(&self, sink: &Source, query: &Query, catalog: &Catalog) -> Result<String, SqlError> {
        let purpose = Purpose::Persistent { target: &sink.name, key_format: None, value_format: None };
        let resolved = analyse::resolve(catalog, query, purpose, Arc::clone(&self.script))?;
        for (_, source) in &resolved.sources {
            if source.cache.is_some() {
                return Err(refuse(format!("the join with {}: it is kept in a cache", source.name))
                    .at(query.from.name.span));
            }
            self.check_exported(&source.name)?;
        }
        Insert { exporter: self, sink, resolved: &resolved, catalog, cols: columns(&resolved) }.text()
    }
}

fn columns(resolved: &Resolved) -> Vec<Col> {
    let mut cols = Vec::new();
    for (alias, source) in &resolved.sources {
        let mut add =
            |name: &str, ty: SqlType| cols.push(Col { alias: alias.clone(), name: name.to_owned(), ty });
        source.columns().for_each(|column| add(&column.name, column.ty.clone()));
        add("ROWTIME", SqlType::BigInt);
    }
    cols
}

struct Insert<'a> {
    exporter: &'a Exporter,
    sink: &'a Source,
    resolved: &'a Resolved,
    catalog: &'a Catalog,
    cols: Vec<Col>,
}

impl Insert<'_> {
    fn writer<'w>(&'w self, column: &'w ColumnText<'w>) -> Writer<'w> {
        Writer { catalog: self.catalog, cols: &self.cols, column }
    }

    fn column(&self, qualifier: Option<&str>, name: &str) -> Result<String, SqlError> {
        let windowed = self.resolved.query.window.is_some();
        if windowed && matches!(name, "WINDOWSTART" | "WINDOWEND") {
            let bound = if name == "WINDOWSTART" { "window_start" } else { "window_end" };
            return Ok(epoch_ms(bound));
        }
        let Some(alias) = qualifier else {
            return Err(refuse(format!("the generated key {name}: join on columns")));
        };
        if name == "ROWTIME" {
            return Err(refuse("ROWTIME as a number: select the column it comes from"));
        }
        if matches!(name, "ROWPARTITION" | "ROWOFFSET") {
            return Err(refuse(format!("the system column {name}")));
        }
        let source = self.resolved.sources.iter().find(|(known, _)| known == alias).map(|(_, source)| source);
        let spelling = source.and_then(|source| self.exporter.spellings.get(&source.name));
        let physical = spelling.map_or(name, |spelling| spelled(spelling, name));
        Ok(format!("{}.{}", quote(alias), quote(physical)))
    }

    fn text(&self) -> Result<String, SqlError> {
        let query = &self.resolved.query;
        let resolve = |qualifier: Option<&str>, name: &str| self.column(qualifier, name);
        let writer = self.writer(&resolve);
        if query.window.is_some() && !query.joins.is_empty() {
            return Err(
                refuse("a window over a join: put the join into a stream of its own first").at(query.span)
            );
        }
        let mut select = Vec::new();
        let mut targets = Vec::new();
        for (column, item) in self.matched()? {
            targets.push(quote(&column));
            select.push(format!("{} AS {}", writer.write(&item.expr)?, quote(&column)));
        }
        if query.window.is_some() {
            for (bound, name) in [("window_start", "WINDOWSTART"), ("window_end", "WINDOWEND")] {
                targets.push(quote(name));
                select.push(format!("{} AS {}", epoch_ms(bound), quote(name)));
            }
        } else if query.group_by.is_none() && self.sink.timestamp.is_none() && !self.sink.table {
            let (alias, _) = &self.resolved.sources[0];
            targets.push(quote("ROWTIME"));
            select.push(format!("CAST({}.`ROWTIME` AS TIMESTAMP_LTZ(3)) AS `ROWTIME`", quote(alias)));
        }
        let mut out = format!(
            "  INSERT INTO {} ({})\n  SELECT {}\n  FROM {}",
            quote(&self.sink.name),
            targets.join(", "),
            select.join(", "),
            self.from()?
        );
        if let Some(filter) = &query.filter {
            out.push_str(&format!("\n  WHERE {}", writer.write(filter)?));
        }
        if let Some(by) = &query.group_by {
            let mut keys = by.iter().map(|expr| writer.write(expr)).collect::<Result<Vec<_>, _>>()?;
            if query.window.is_some() {
                keys.extend(["window_start".to_owned(), "window_end".to_owned()]);
            }
            out.push_str(&format!("\n  GROUP BY {}", keys.join(", ")));
        }
        if let Some(having) = &query.having {
            out.push_str(&format!("\n  HAVING {}", writer.write(having)?));
        }
        out.push_str(";\n");
        Ok(out)
    }

    /// Items with the sink column each one fills.
    fn matched(&self) -> Result<Vec<(String, &Item)>, SqlError> {
        let columns: Vec<&str> = self.sink.schema.columns().map(|column| column.name.as_str()).collect();
        let known = self.exporter.spellings.get(&self.sink.name);
        let mut out = Vec::new();
        let mut keys = self.sink.schema.key.iter();
        for item in &self.resolved.items {
            let name = if columns.contains(&item.alias.as_str()) {
                item.alias.clone()
            } else {
                // INSERT INTO matches key columns by place.
                keys.next()
                    .map(|key| key.name.clone())
                    .ok_or_else(|| refuse(format!("column {}", item.alias)))?
            };
            out.push((known.map_or(name.clone(), |spelling| spelled(spelling, &name).to_owned()), item));
        }
        Ok(out)
    }

    fn from(&self) -> Result<String, SqlError> {
        let query = &self.resolved.query;
        let (alias, first) = &self.resolved.sources[0];
        let mut out = match query.window {
            None => format!("{} AS {}", quote(&first.name), quote(alias)),
            Some(window) => {
                let name = quote(&first.name);
                let call = match window.kind {
                    WindowKind::Tumbling { size_ms } => {
                        format!("TUMBLE(TABLE {name}, DESCRIPTOR(`ROWTIME`), {})", interval(size_ms))
                    }
                    WindowKind::Hopping { size_ms, advance_ms } => {
                        if size_ms % advance_ms != 0 {
                            return Err(refuse("a HOPPING window whose size is no multiple of its advance")
                                .at(window.span));
                        }
                        format!(
                            "HOP(TABLE {name}, DESCRIPTOR(`ROWTIME`), {}, {})",
                            interval(advance_ms),
                            interval(size_ms)
                        )
                    }
                    WindowKind::Session { .. } => {
                        return Err(refuse(
                            "a SESSION window: in ksqlDB it ends at its last event, in Flink a gap later",
                        )
                        .at(window.span));
                    }
                };
                if first.table {
                    return Err(refuse("a window over a table").at(window.span));
                }
                format!("TABLE({call}) AS {}", quote(alias))
            }
        };
        for (join, (alias, source)) in query.joins.iter().zip(self.resolved.sources.iter().skip(1)) {
            let kind = match join.kind {
                JoinKind::Inner => "JOIN",
                JoinKind::Left => "LEFT JOIN",
                JoinKind::Right => "RIGHT JOIN",
                JoinKind::Outer => "FULL OUTER JOIN",
            };
            let resolve = |qualifier: Option<&str>, name: &str| self.column(qualifier, name);
            let on = self.writer(&resolve).write(&join.on)?;
            let left = quote(&self.resolved.sources[0].0);
            let right = quote(alias);
            let table = quote(&source.name);
            out.push_str(&match (first.table, source.table, join.within) {
                (false, true, _) => {
                    format!("\n  {kind} {table} FOR SYSTEM_TIME AS OF {left}.`ROWTIME` AS {right} ON {on}")
                }
                (false, false, Some(within)) => format!(
                    "\n  {kind} {table} AS {right} ON {on} AND {right}.`ROWTIME` BETWEEN {left}.`ROWTIME` - {} AND {left}.`ROWTIME` + {}",
                    interval(within.before_ms),
                    interval(within.after_ms)
                ),
                _ => format!("\n  {kind} {table} AS {right} ON {on}"),
            });
        }
        Ok(out)
    }
}

/// A window bound as milliseconds since the epoch.
fn epoch_ms(bound: &str) -> String {
    format!("CAST(TIMESTAMPDIFF(SECOND, TIMESTAMP '1970-01-01 00:00:00', {bound}) AS BIGINT) * 1000")
}
