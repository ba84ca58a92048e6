//! FROM: sources and joins, and what can be said about the rows they give.

use herdsman_formats::FormatSpec;
use herdsman_stream::SqlType;
use herdsman_stream::expr::Expr as Typed;
use herdsman_stream::plan::{
    JoinKind as PlanJoin, NamedExpr, Node, PseudoColumn, Source as PlanSource, TimestampColumn,
};

use super::scope::Scope;
use super::types::{Checker, Col};
use crate::ast::{Comparison, Expr, ExprKind, Join, JoinKind, Span};
use crate::catalog::{Catalog, KeyWindow, Source, WindowKindName, check_key_types};
use crate::diagnostic::SqlError;
use crate::printer::{self, Names};

/// A node with all that the planner must know about its output.
#[derive(Debug, Clone)]
pub(crate) struct Rel {
    pub node: Node,
    /// Output columns, key first.
    pub cols: Vec<Col>,
    pub key_len: usize,
    pub table: bool,
    pub window: Option<KeyWindow>,
    pub partitions: i32,
    /// Per key column, the expressions that stand for it in a projection, the preferred one first.
    pub keys: Vec<Vec<Expr>>,
    pub key_format: FormatSpec,
    pub value_format: FormatSpec,
    /// Whether a repartition topic decides the partitions (then they follow the other side of a join).
    pub repartitioned: bool,
}

/// The columns a query names: alias and column.
pub(crate) type Needed = Vec<(String, String)>;

/// Collects the qualified columns of an expression.
pub(crate) fn collect(expr: &Expr, needed: &mut Needed) {
    expr.walk(&mut |expr| {
        if let ExprKind::Column { qualifier: Some(alias), name } = &expr.kind {
            let pair = (alias.clone(), name.clone());
            if !needed.contains(&pair) {
                needed.push(pair);
            }
        }
        true
    });
}

pub(crate) fn column(alias: &str, name: &str, span: Span) -> Expr {
    let qualifier = if alias.is_empty() { None } else { Some(alias.to_owned()) };
    Expr::new(ExprKind::Column { qualifier, name: name.to_owned() }, span)
}

/// A source as a node that reads the needed columns.
pub(crate) fn source(alias: &str, source: &Source, needed: &Needed) -> Rel {
    let wanted = |name: &str| needed.iter().any(|(owner, column)| owner == alias && column == name);
    let mut cols: Vec<Col> = source
        .schema
        .columns()
        .map(|column| Col { alias: alias.to_owned(), name: column.name.clone(), ty: column.ty.clone() })
        .collect();
    let key_len = source.schema.key.len();
    let mut read: Vec<usize> = cols
        .iter()
        .enumerate()
        .filter(|(at, col)| *at < key_len || wanted(&col.name))
        .map(|(at, _)| at)
        .collect();
    let timestamp = source.timestamp.as_ref().and_then(|(name, format)| {
        let index = source.schema.index_of(name)?;
        Some(TimestampColumn { index, format: format.clone() })
    });
    if let Some(timestamp) = &timestamp
        && !read.contains(&timestamp.index)
    {
        read.push(timestamp.index);
        read.sort_unstable();
    }
    let mut pseudo = Vec::new();
    let mut add = |name: &str, ty: SqlType, column: PseudoColumn| {
        cols.push(Col { alias: alias.to_owned(), name: name.to_owned(), ty });
        pseudo.push(column);
    };
    for (column, kind) in &source.headers {
        if wanted(&column.name) {
            add(&column.name, column.ty.clone(), kind.clone());
        }
    }
    for (name, kind) in [
        ("ROWTIME", PseudoColumn::RowTime),
        ("ROWPARTITION", PseudoColumn::RowPartition),
        ("ROWOFFSET", PseudoColumn::RowOffset),
        ("WINDOWSTART", PseudoColumn::WindowStart),
        ("WINDOWEND", PseudoColumn::WindowEnd),
    ] {
        if let (true, Some(ty)) = (wanted(name), source.system_column(name)) {
            add(name, ty, kind);
        }
    }
    let plan = PlanSource {
        name: source.name.clone(),
        topic: source.topic.clone(),
        schema: source.schema.clone(),
        key_format: source.key_format.clone(),
        value_format: source.value_format.clone(),
        windowed: source.window.map(KeyWindow::key),
        timestamp,
        pseudo,
        needed: read,
    };
    Rel {
        node: if source.table { Node::TableSource(plan) } else { Node::StreamSource(plan) },
        cols,
        key_len,
        table: source.table,
        window: source.window,
        partitions: source.partitions,
        keys: source.schema.key.iter().map(|key| vec![column(alias, &key.name, Span::default())]).collect(),
        key_format: source.key_format.clone(),
        value_format: source.value_format.clone(),
        repartitioned: false,
    }
}

impl Rel {
    /// The relation under a new key; its own columns stay as value columns, where the plan needs them.
    pub(crate) fn rekeyed(
        self,
        key: Vec<NamedExpr>,
        keep: &dyn Fn(&Col) -> bool,
        moves: Option<FormatSpec>,
    ) -> Self {
        let mut cols: Vec<Col> = key
            .iter()
            .map(|key| Col { alias: String::new(), name: key.name.clone(), ty: key.expr.ty() })
            .collect();
        let mut columns = Vec::new();
        for (index, col) in self.cols.iter().enumerate().filter(|(_, col)| keep(col)) {
            let name = internal_name(col);
            columns.push(NamedExpr { name, expr: Typed::Column { index, ty: col.ty.clone() } });
            cols.push(col.clone());
        }
        let repartition = moves.is_some();
        let key_format = moves.unwrap_or(self.key_format);
        Self {
            node: Node::Rekey {
                input: Box::new(self.node),
                key_format: key_format.clone(),
                value_format: internal_value_format(&self.value_format),
                repartition,
                key,
                columns,
            },
            key_len: cols.len() - self.cols.iter().filter(|col| keep(col)).count(),
            cols,
            key_format,
            repartitioned: repartition || self.repartitioned,
            ..self
        }
    }
}

/// Values between two halves of a query are JSON objects, whatever the topics around hold: every type fits.
fn internal_value_format(_outer: &FormatSpec) -> FormatSpec {
    FormatSpec::new(herdsman_formats::Format::Json)
}

/// What a source's column is called in internal topics.
pub(crate) fn internal_name(col: &Col) -> String {
    if col.alias.is_empty() { col.name.clone() } else { format!("{}_{}", col.alias, col.name) }
}

/// Joins all sources of the query, left to right.
pub(crate) fn joined(
    catalog: &Catalog,
    scope: &Scope,
    joins: &[Join],
    needed: &Needed,
) -> Result<Rel, SqlError> {
    let Some((alias, first)) = scope.sources.first() else {
        return Err(SqlError::statement("a query needs a source: write FROM"));
    };
    if first.cache.is_some() {
        return Err(SqlError::statement(format!(
            "{} is kept in a cache: it can only be joined to a stream, FROM stream JOIN {} ON …",
            first.name, first.name
        )));
    }
    let mut rel = source(alias, first, needed);
    let mut left_name = first.name.clone();
    for (index, join) in joins.iter().enumerate() {
        let (alias, right) = &scope.sources[index + 1];
        let planner =
            JoinPlanner { catalog, scope, join, needed, alias, right, left_name: &left_name, index };
        rel = planner.plan(rel)?;
        left_name = right.name.clone();
    }
    Ok(rel)
}

struct JoinPlanner<'a> {
    catalog: &'a Catalog,
    scope: &'a Scope,
    join: &'a Join,
    needed: &'a Needed,
    alias: &'a str,
    right: &'a Source,
    left_name: &'a str,
    index: usize,
}

impl JoinPlanner<'_> {
    fn plan(&self, left: Rel) -> Result<Rel, SqlError> {
        let (left_key, right_key, text) = self.criteria()?;
        if let Some(table) = &self.right.cache {
            return self.cache_join(left, &left_key, &right_key, std::sync::Arc::clone(table));
        }
        let right = source(self.alias, self.right, self.needed);
        self.check_kinds(&left, &right)?;
        let typed_left = Checker::new(self.catalog, &left.cols, Names::Joined).value(&left_key)?;
        let typed_right = Checker::new(self.catalog, &right.cols, Names::Joined).value(&right_key)?;
        if typed_left.ty() != typed_right.ty() {
            let say = |expr: &Expr| printer::expression(expr, Names::Qualified);
            return Err(SqlError::statement(format!(
                "Invalid join condition: types don't match. Got {}{{{}}} = {}{{{}}}.",
                say(&left_key),
                typed_left.ty(),
                say(&right_key),
                typed_right.ty()
            ))
            .at(self.join.on.span));
        }
        let left_on_key = is_key(&left, &left_key);
        let right_on_key = is_key(&right, &right_key);
        if right.table && !right_on_key {
            return Err(self.not_on_primary_key(&left, &text));
        }
        self.check_windows(&left, &right, left_on_key && right_on_key)?;
        if left.table && !left_on_key {
            return self.foreign_key_join(left, right, typed_left, &text);
        }
        self.check_map_key(&left_key, &typed_left)?;
        let viable = self.viable(&left, left_on_key, &left_key, &right_key);
        let same_format = left.key_format == right.key_format;
        let move_right = !right.table && (!right_on_key);
        let move_left = !left_on_key || (!same_format && !left.table && !move_right);
        self.check_partitions(&left, &right, move_left, move_right)?;
        let key_format =
            if move_left && right.table { right.key_format.clone() } else { left.key_format.clone() };
        let left = if move_left { self.moved(left, typed_left, key_format.clone()) } else { left };
        let right = if move_right { self.moved(right, typed_right, left.key_format.clone()) } else { right };
        Ok(self.join_node(left, right, viable))
    }

    fn moved(&self, rel: Rel, key: Typed, format: FormatSpec) -> Rel {
        let key = vec![NamedExpr { name: "JOIN_KEY".to_owned(), expr: key }];
        rel.rekeyed(
            key,
            &|col| col.alias.is_empty() || self.needed.iter().any(|(a, n)| *a == col.alias && *n == col.name),
            Some(format),
        )
    }

    fn check_map_key(&self, key: &Expr, typed: &Typed) -> Result<(), SqlError> {
        let name = match &key.kind {
            ExprKind::Column { qualifier: Some(alias), name } => format!("{alias}_{name}"),
            _ => "ROWKEY".to_owned(),
        };
        check_key_types(&[herdsman_stream::Column::new(name, typed.ty())]).map_err(|error| error.at(key.span))
    }

    /// Left and right side of ON, the right one over the joined source, and both as text.
    fn criteria(&self) -> Result<(Expr, Expr, String), SqlError> {
        let on = &self.join.on;
        let say = |expr: &Expr| printer::expression(expr, Names::Qualified);
        let (left, right) = match &on.kind {
            ExprKind::Compare { op: Comparison::Equal, left, right } => (&**left, &**right),
            ExprKind::And(..) | ExprKind::Or(..) => {
                return Err(SqlError::statement(format!(
                    "Invalid join condition: joins on multiple conditions are not yet supported. Got {}.",
                    say(on)
                ))
                .at(on.span));
            }
            _ => {
                return Err(SqlError::statement(format!(
                    "Unsupported join expression: {}. ON needs the form left = right",
                    say(on)
                ))
                .at(on.span));
            }
        };
        let mut sides = Vec::new();
        for side in [left, right] {
            let mut columns = Needed::new();
            collect(side, &mut columns);
            let mut owners: Vec<String> = columns.into_iter().map(|(alias, _)| alias).collect();
            owners.dedup();
            let [owner] = owners.as_slice() else {
                return Err(SqlError::statement(format!(
                    "Invalid comparison expression '{}' in join '{}'. Each side of the join comparision must contain references from exactly one source.",
                    say(side),
                    say(on)
                ))
                .at(side.span));
            };
            sides.push((owner.clone(), side.clone()));
        }
        let text = format!("{} = {}", say(left), say(right));
        let (second, first) = (sides.pop(), sides.pop());
        match (first, second) {
            (Some((_, left)), Some((owner, right))) if owner == self.alias => Ok((left, right, text)),
            (Some((owner, right)), Some((_, left))) if owner == self.alias => Ok((left, right, text)),
            (Some((left, _)), Some((right, _))) => {
                let real = |alias: &str| {
                    let found = self.scope.sources.iter().find(|(known, _)| known == alias);
                    found.map_or(alias.to_owned(), |(_, source)| source.name.clone())
                };
                Err(SqlError::statement(format!(
                    "A join criteria is expected to reference the source (`{}`) in the FROM clause, instead the right source references `{}` and the left source references `{}`",
                    self.right.name,
                    real(&right),
                    real(&left)
                ))
                .at(on.span))
            }
            _ => Err(SqlError::statement("ON needs the form left = right").at(on.span)),
        }
    }

    fn check_kinds(&self, left: &Rel, right: &Rel) -> Result<(), SqlError> {
        let refused = |message: String| Err(SqlError::statement(message).at(self.join.span));
        let kind = match self.join.kind {
            JoinKind::Inner => "[INNER]",
            JoinKind::Left => "LEFT [OUTER]",
            JoinKind::Right => "RIGHT [OUTER]",
            JoinKind::Outer => "[FULL] OUTER",
        };
        match (left.table, right.table, self.join.within) {
            (true, false, _) => refused(format!(
                "Invalid join order: table-stream joins are not supported; only stream-table joins. Got {} {kind} JOIN {}.",
                self.scope.sources[0].1.name, self.right.name
            )),
            (false, false, None) => refused(
                "Stream-Stream joins must have a WITHIN clause specified. None was provided. To learn about how to specify a WITHIN clause with a stream-stream join, please visit: https://docs.confluent.io/current/ksql/docs/syntax-reference.html#create-stream-as-select".to_owned(),
            ),
            (false, true, Some(_)) => refused("A window definition was provided for a Stream-Table join. These joins are not windowed. Please remove the window definition (i.e. the WITHIN clause) and try to execute your join again.".to_owned()),
            (true, true, Some(_)) => refused("A window definition was provided for a Table-Table join. These joins are not windowed. Please remove the window definition (i.e. the WITHIN clause) and try to execute your Table-Table join again.".to_owned()),
            (false, true, None) if self.join.kind == JoinKind::Outer => {
                refused("Full outer joins between streams and tables are not supported.".to_owned())
            }
            (false, true, None) if self.join.kind == JoinKind::Right => {
                refused("Right outer joins between streams and tables are not supported.".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn not_on_primary_key(&self, left: &Rel, text: &str) -> SqlError {
        let which = if left.table {
            "table-table joins require to join on the primary key of the right input table"
        } else {
            "stream-table joins require to join on the table's primary key"
        };
        SqlError::statement(format!("Invalid join condition: {which}. Got {text}.")).at(self.join.on.span)
    }

    fn check_windows(&self, left: &Rel, right: &Rel, on_keys: bool) -> Result<(), SqlError> {
        let refused = |message: String| Err(SqlError::statement(message).at(self.join.span));
        let names = (&self.scope.sources[0].1.name, &self.right.name);
        if (left.window.is_some() || right.window.is_some()) && !on_keys {
            return refused("Implicit repartitioning of windowed sources is not supported. See https://github.com/confluentinc/ksql/issues/4385.".to_owned());
        }
        match (left.window, right.window) {
            (Some(l), Some(r)) => {
                let session = |window: KeyWindow| window.kind == WindowKindName::Session;
                if session(l) != session(r) {
                    return refused(format!(
                        "Incompatible windowed sources.\nLeft source: {}\nRight source: {}\nSession windowed sources can only be joined to other session windowed sources, and may still not result in expected behaviour as session bounds must be an exact match for the join to work\nHopping and tumbling windowed sources can only be joined to other hopping and tumbling windowed sources",
                        l.kind.name(),
                        r.kind.name()
                    ));
                }
                if left.key_format != right.key_format || l.size_ms != r.size_ms {
                    return refused("Implicit repartitioning of windowed sources is not supported. See https://github.com/confluentinc/ksql/issues/4385.".to_owned());
                }
                Ok(())
            }
            (Some(window), None) | (None, Some(window)) => {
                let say = |name: &str, own: Option<KeyWindow>| match own {
                    Some(_) => format!("`{name}` is {} windowed", window.kind.name()),
                    None => format!("`{name}` is not windowed"),
                };
                refused(format!(
                    "Can not join windowed source to non-windowed source.\n{}\n{}",
                    say(names.0, left.window),
                    say(names.1, right.window)
                ))
            }
            (None, None) => Ok(()),
        }
    }

    fn check_partitions(
        &self,
        left: &Rel,
        right: &Rel,
        move_left: bool,
        move_right: bool,
    ) -> Result<(), SqlError> {
        if move_left
            || move_right
            || left.repartitioned
            || right.repartitioned
            || left.partitions == right.partitions
        {
            return Ok(());
        }
        let left_source = &self.scope.sources[0].1;
        let error = SqlError::statement(format!(
            "Can't join `{0}` with `{1}` since the number of partitions don't match. `{0}` partitions = {2}; `{1}` partitions = {3}. Please repartition either one so that the number of partitions match.",
            left_source.name, self.right.name, left.partitions, right.partitions
        ))
        .at(self.join.span);
        let plural = |n: i32| if n == 1 { format!("{n} partition") } else { format!("{n} partitions") };
        Err(error.help(format!(
            "{0} has {1}, {2} {3}: run CREATE {4} {2}_{5} WITH (PARTITIONS={5}) AS SELECT * FROM {2}, join that",
            left_source.name,
            plural(left.partitions),
            self.right.name,
            right.partitions,
            self.right.kind(),
            left.partitions
        )))
    }

    /// What stands for the key behind the join; empty: only the synthetic ROWKEY does.
    fn viable(&self, left: &Rel, left_on_key: bool, left_key: &Expr, right_key: &Expr) -> Vec<Expr> {
        if self.join.kind == JoinKind::Outer {
            return Vec::new();
        }
        let mut viable = Vec::new();
        if left_on_key {
            viable.extend(left.keys.first().cloned().unwrap_or_default());
        } else {
            viable.push(left_key.clone());
        }
        viable.push(right_key.clone());
        viable.retain(|expr| matches!(&expr.kind, ExprKind::Column { qualifier: Some(_), .. }));
        let computed = !matches!(left_key.kind, ExprKind::Column { .. });
        if computed && !viable.is_empty() && matches!(self.join.kind, JoinKind::Inner | JoinKind::Left) {
            // Beyond ksqlDB: the left side's own expression is the key as well, and may be selected as such.
            viable.push(left_key.clone());
        }
        viable
    }

    fn join_node(&self, left: Rel, right: Rel, viable: Vec<Expr>) -> Rel {
        let kind = plan_kind(self.join.kind);
        let synthetic = viable.is_empty();
        let key_name = self.scope.synthetic_key();
        let (l, r) = (Box::new(left.node), Box::new(right.node));
        let stream_table = !left.table && right.table;
        let node = match (stream_table, left.table) {
            (true, _) => Node::StreamTableJoin { left: l, right: r, kind, key_name: key_name.clone() },
            (_, true) => Node::TableTableJoin { left: l, right: r, kind, key_name: key_name.clone() },
            _ => {
                let within = self.join.within.unwrap_or(crate::ast::Within {
                    before_ms: 0,
                    after_ms: 0,
                    grace_ms: None,
                });
                Node::StreamStreamJoin {
                    left: l,
                    right: r,
                    kind,
                    before_ms: within.before_ms,
                    after_ms: within.after_ms,
                    grace_ms: within.grace_ms,
                    key_name: key_name.clone(),
                }
            }
        };
        let key_ty = left.cols.first().map_or(SqlType::String, |col| col.ty.clone());
        let mut cols = Vec::new();
        let mut left_cols = left.cols;
        if stream_table {
            if synthetic && let Some(key) = left_cols.first_mut() {
                key.name = key_name.clone();
            }
        } else {
            cols.push(Col { alias: String::new(), name: key_name.clone(), ty: key_ty });
            if let Some(key) = left_cols.first_mut().filter(|col| col.alias.is_empty()) {
                key.name = format!("LEFT_KEY_{}", self.index);
            }
        }
        cols.extend(left_cols);
        let mut right_cols = right.cols;
        if let Some(key) = right_cols.first_mut().filter(|col| col.alias.is_empty()) {
            key.name = format!("RIGHT_KEY_{}", self.index);
        }
        cols.extend(right_cols);
        let keys = if synthetic { vec![vec![column("", &key_name, Span::default())]] } else { vec![viable] };
        Rel {
            node,
            cols,
            key_len: 1,
            table: left.table,
            window: left.window,
            partitions: if left.repartitioned { right.partitions } else { left.partitions },
            keys,
            key_format: left.key_format,
            value_format: left.value_format,
            repartitioned: left.repartitioned && right.repartitioned,
        }
    }

    fn foreign_key_join(&self, left: Rel, right: Rel, key: Typed, text: &str) -> Result<Rel, SqlError> {
        if self.index > 0 {
            return Err(SqlError::statement(format!(
                "Invalid join condition: foreign-key table-table joins are not supported as part of n-way joins. Got {text}."
            ))
            .at(self.join.on.span));
        }
        match self.join.kind {
            JoinKind::Inner | JoinKind::Left => {}
            JoinKind::Right | JoinKind::Outer => {
                let kind = if self.join.kind == JoinKind::Right { "RIGHT OUTER" } else { "FULL OUTER" };
                return Err(SqlError::statement(format!(
                    "Invalid join type: {kind} JOIN on a foreign key is not supported for foreign-key table-table join. Got {} {kind} JOIN {}.",
                    self.left_name, self.right.name
                ))
                .at(self.join.span));
            }
        }
        let mut cols = left.cols;
        cols.extend(right.cols);
        Ok(Rel {
            node: Node::ForeignKeyJoin {
                left: Box::new(left.node),
                right: Box::new(right.node),
                kind: plan_kind(self.join.kind),
                foreign_key: key,
            },
            cols,
            keys: left.keys,
            key_len: left.key_len,
            table: true,
            window: left.window,
            partitions: left.partitions,
            key_format: left.key_format,
            value_format: left.value_format,
            repartitioned: left.repartitioned,
        })
    }

    fn cache_join(
        &self,
        left: Rel,
        left_key: &Expr,
        right_key: &Expr,
        table: std::sync::Arc<herdsman_stream::plan::CacheTable>,
    ) -> Result<Rel, SqlError> {
        let refused = |message: String| Err(SqlError::statement(message).at(self.join.span));
        if left.table {
            return refused(format!(
                "{} is kept in a cache: it can only be joined to a stream",
                self.right.name
            ));
        }
        if !matches!(self.join.kind, JoinKind::Inner | JoinKind::Left) || self.join.within.is_some() {
            return refused(format!(
                "a join with the cache-backed table {} is INNER or LEFT and has no WITHIN clause",
                self.right.name
            ));
        }
        let right_cols: Vec<Col> = table
            .schema
            .columns()
            .map(|column| Col {
                alias: self.alias.to_owned(),
                name: column.name.clone(),
                ty: column.ty.clone(),
            })
            .collect();
        let typed = Checker::new(self.catalog, &left.cols, Names::Joined).value(left_key)?;
        let on_key = matches!(&right_key.kind, ExprKind::Column { name, .. } if self.right.is_key(name));
        let wanted = right_cols.first().map_or(SqlType::String, |col| col.ty.clone());
        if !on_key || typed.ty() != wanted {
            return refused(format!(
                "Invalid join condition: stream-table joins require to join on the table's primary key. Got {} of type {}, {} has a primary key of type {wanted}.",
                printer::expression(left_key, Names::Qualified),
                typed.ty(),
                self.right.name
            ));
        }
        let mut cols = left.cols;
        cols.extend(right_cols);
        Ok(Rel {
            node: Node::CacheJoin {
                left: Box::new(left.node),
                table,
                key: typed,
                kind: plan_kind(self.join.kind),
            },
            cols,
            ..left
        })
    }
}

fn plan_kind(kind: JoinKind) -> PlanJoin {
    match kind {
        JoinKind::Inner => PlanJoin::Inner,
        JoinKind::Left => PlanJoin::Left,
        JoinKind::Right => PlanJoin::Right,
        JoinKind::Outer => PlanJoin::Outer,
    }
}

/// Whether `expr` is the only key column of `rel`.
fn is_key(rel: &Rel, expr: &Expr) -> bool {
    rel.keys.len() == 1 && rel.keys[0].contains(expr)
}
