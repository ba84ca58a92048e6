//! SELECT: push queries (EMIT CHANGES) and the handle through which any query's rows come.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use herdsman_stream::eval::value_at;
use herdsman_stream::plan::{QueryPlan, Sink};
use herdsman_stream::runtime::PushReceiver;
use herdsman_stream::{Column, Rows, StartAt};
use serde_json::{Value as Json, json};

use super::{Engine, Session, value_to_json};
use crate::analyse::{self, Purpose};
use crate::ast::{Query, Statement, StatementKind};
use crate::diagnostic::SqlError;
use crate::parser;

/// One row of a result.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryRow {
    /// Values in the order of [`QueryHandle::columns`].
    pub columns: Vec<Json>,
    /// The row was deleted from the table it came from.
    pub tombstone: bool,
}

impl QueryRow {
    /// As `POST /query` writes it: `{"row":{"columns":[…]}}`.
    #[must_use]
    pub fn to_json(&self) -> Json {
        match self.tombstone {
            false => json!({"row": {"columns": self.columns}}),
            true => json!({"row": {"columns": self.columns, "tombstone": true}}),
        }
    }
}

/// A running SELECT. Dropping it ends a push query.
pub struct QueryHandle {
    query_id: String,
    columns: Vec<Column>,
    keys: Vec<bool>,
    waiting: VecDeque<QueryRow>,
    push: Option<PushReceiver>,
    key_len: usize,
    left: Option<u64>,
    is_push: bool,
    final_message: &'static str,
}

impl QueryHandle {
    pub(super) fn finished(
        query_id: String,
        columns: Vec<Column>,
        keys: Vec<bool>,
        rows: Vec<QueryRow>,
        limited: bool,
    ) -> Self {
        Self {
            query_id,
            columns,
            keys,
            waiting: rows.into(),
            push: None,
            key_len: 0,
            left: None,
            is_push: false,
            final_message: if limited { "Limit Reached" } else { "Query Completed" },
        }
    }

    /// Id of the query.
    #[must_use]
    pub fn query_id(&self) -> &str {
        &self.query_id
    }

    /// Columns of the result.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The schema as ksqlDB's header has it: `` `ID` STRING KEY, `N` BIGINT ``.
    #[must_use]
    pub fn schema(&self) -> String {
        let columns = self.columns.iter().zip(&self.keys).map(|(column, key)| {
            let role = if *key { " KEY" } else { "" };
            format!("`{}` {}{role}", column.name, column.ty)
        });
        columns.collect::<Vec<_>>().join(", ")
    }

    /// The first element of `POST /query`: `{"header":{"queryId":…,"schema":…}}`.
    #[must_use]
    pub fn header(&self) -> Json {
        json!({"header": {"queryId": self.query_id, "schema": self.schema()}})
    }

    /// Whether it goes on until it is dropped or its LIMIT is reached.
    #[must_use]
    pub fn is_push(&self) -> bool {
        self.is_push
    }

    /// The last element of `POST /query`: `Limit Reached` or `Query Completed`.
    #[must_use]
    pub fn final_message(&self) -> &'static str {
        self.final_message
    }

    /// Rows as they come; waits up to `timeout` for the first of them. `Ok(None)`: the result has ended.
    ///
    /// # Errors   why the query ended early.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<Vec<QueryRow>>, SqlError> {
        if self.waiting.is_empty() {
            let Some(push) = &self.push else { return Ok(None) };
            if self.left == Some(0) {
                self.push = None;
                return Ok(None);
            }
            match push.recv(timeout).map_err(SqlError::processing)? {
                None => return Ok(Some(Vec::new())),
                Some(rows) => self.take(&rows),
            }
        }
        Ok(Some(self.waiting.drain(..).collect()))
    }

    fn take(&mut self, rows: &Rows) {
        for row in 0..rows.len() {
            if self.left == Some(0) {
                return;
            }
            let tombstone = rows.is_tombstone(row);
            let columns = self.columns.iter().enumerate().map(|(index, column)| {
                let array = rows.columns.get(self.key_len + index);
                array.map_or(Json::Null, |array| {
                    value_to_json(&value_at(array.as_ref(), row, &column.ty), &column.ty)
                })
            });
            self.waiting.push_back(QueryRow { columns: columns.collect(), tombstone });
            self.left = self.left.map(|left| left - 1);
        }
    }
}

impl Engine {
    /// Starts the SELECT in `sql`, the only statement there: a push query with EMIT CHANGES, else a pull query.
    ///
    /// # Errors   ksqlDB's refusals, with the place.
    pub fn query(&self, sql: &str, session: &Session) -> Result<QueryHandle, SqlError> {
        let sql = session.substitute(sql)?;
        let statements = parser::parse_script(&sql)?;
        let script: Arc<str> = Arc::from(sql.as_str());
        let [statement] = statements.as_slice() else {
            return Err(SqlError::bad_request(format!(
                "Expected exactly one KSQL statement; found {} instead",
                statements.len()
            )));
        };
        let StatementKind::Query(query) = &statement.kind else {
            return Err(SqlError {
                code: 40002,
                ..SqlError::statement(
                    "Statement type not supported for this endpoint: only SELECT can be queried",
                )
            }
            .locate(&script, &statement.text));
        };
        let started = parser::with_deep_stack(|| self.start_select(statement, query, &script, session));
        started.map_err(|error| error.locate(&script, &statement.text))
    }

    fn start_select(
        &self,
        statement: &Statement,
        query: &Query,
        script: &Arc<str>,
        session: &Session,
    ) -> Result<QueryHandle, SqlError> {
        let _ = statement;
        if query.emit.is_none() {
            return self.pull(query, script, session);
        }
        let (planned, id, start) = {
            let mut state = self.lock();
            let planned = analyse::plan(&state.catalog, query, Purpose::Push, Arc::clone(script))?;
            state.next_transient += 1;
            let first = planned.sources.first().cloned().unwrap_or_default();
            let start = self.start_at(session);
            let made = state.catalog.sources.get(&first).is_some_and(|source| source.created_by.is_some());
            let scalable =
                made && start == StartAt::Latest && planned.sources.len() == 1 && query.group_by.is_none();
            let prefix =
                if scalable { "SCALABLE_PUSH_QUERY".to_owned() } else { format!("transient_{first}") };
            let id = format!("{prefix}_{}_{}", self.inner.clock.now_ms(), state.next_transient);
            (planned, id, start)
        };
        let columns = planned.schema.value.clone();
        let key_len = planned.schema.key.len();
        let plan = QueryPlan {
            id: id.clone(),
            root: planned.root,
            is_table: planned.table,
            sink: Sink::Push { schema: planned.schema },
        };
        let push = self.inner.runtime.push(plan, start).map_err(SqlError::environment)?;
        let left = query.limit.and_then(|limit| u64::try_from(limit).ok());
        Ok(QueryHandle {
            query_id: id,
            keys: vec![false; columns.len()],
            columns,
            waiting: VecDeque::new(),
            push: Some(push),
            key_len,
            left,
            is_push: true,
            final_message: if left.is_some() { "Limit Reached" } else { "Query Completed" },
        })
    }
}
