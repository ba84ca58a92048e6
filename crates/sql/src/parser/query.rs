//! SELECT: items, sources, joins, windows and the clauses after them.

use super::Parser;
use super::lexer::Token;
use crate::ast::{
    Emit, Expr, Join, JoinKind, Name, Query, SelectItem, SourceRef, Span, Window, WindowKind, Within,
};
use crate::diagnostic::SqlError;

/// Words that begin a clause and so cannot be an alias without AS.
const CLAUSES: [&str; 6] = ["PARTITION", "EMIT", "ORDER", "OFFSET", "WITHIN", "WINDOW"];

impl Parser<'_> {
    pub(super) fn query(&mut self) -> Result<Query, SqlError> {
        let start = self.span();
        self.expect_word("SELECT")?;
        let items = self.list(Self::select_item)?;
        self.expect_word("FROM")?;
        let from = self.source_ref()?;
        let mut joins = Vec::new();
        while let Some(kind) = self.join_kind()? {
            joins.push(self.join(kind)?);
        }
        let mut query = Query {
            items,
            from,
            joins,
            window: None,
            filter: None,
            partition_by: None,
            group_by: None,
            having: None,
            emit: None,
            order_by: Vec::new(),
            limit: None,
            offset: None,
            span: start,
        };
        self.clauses(&mut query)?;
        query.span = self.since(start);
        Ok(query)
    }

    fn clauses(&mut self, query: &mut Query) -> Result<(), SqlError> {
        if self.take_word("WINDOW") {
            query.window = Some(self.window()?);
        }
        if self.take_word("WHERE") {
            query.filter = Some(self.expression()?);
        }
        if self.take_words(&["GROUP", "BY"]) {
            query.group_by = Some(self.grouping()?);
        }
        if self.take_words(&["PARTITION", "BY"]) {
            query.partition_by = Some(self.grouping()?);
        }
        if self.take_word("HAVING") {
            query.having = Some(self.expression()?);
        }
        if self.take_words(&["ORDER", "BY"]) {
            query.order_by = self.list(|parser| {
                let key = parser.expression()?;
                let descending = parser.take_word("DESC");
                if !descending {
                    parser.take_word("ASC");
                }
                Ok((key, descending))
            })?;
        }
        if self.take_word("EMIT") {
            query.emit = Some(if self.take_word("CHANGES") {
                Emit::Changes
            } else if self.take_word("FINAL") {
                Emit::Final
            } else {
                return Err(self.unexpected("CHANGES, FINAL"));
            });
        }
        if self.take_word("LIMIT") {
            query.limit = Some(self.integer("LIMIT")?);
        }
        if self.take_word("OFFSET") {
            query.offset = Some(self.integer("OFFSET")?);
        }
        if self.ends_statement() {
            return Ok(());
        }
        Err(self.unexpected(
            "',', JOIN, WINDOW, WHERE, GROUP BY, PARTITION BY, HAVING, ORDER BY, EMIT CHANGES, EMIT FINAL, LIMIT, ';'",
        ))
    }

    fn grouping(&mut self) -> Result<Vec<Expr>, SqlError> {
        if self.peek_mark(0, "(") {
            let start = self.at;
            self.at += 1;
            if self.take_mark(")") {
                return Ok(Vec::new());
            }
            let listed = self.list(Self::value_expression);
            if let Ok(list) = listed
                && self.take_mark(")")
                && !self.continues_value()
            {
                return Ok(list);
            }
            self.at = start;
        }
        self.list(Self::value_expression)
    }

    /// Whether what follows a closing parenthesis goes on with the same value: `(a + b) * c`.
    fn continues_value(&self) -> bool {
        ["+", "-", "*", "/", "%", "||", "[", "->", ","].iter().any(|mark| self.peek_mark(0, mark))
    }

    fn select_item(&mut self) -> Result<SelectItem, SqlError> {
        let start = self.span();
        if self.take_mark("*") {
            return Ok(SelectItem::All { qualifier: None, span: start });
        }
        if self.peek_mark(1, ".") && self.peek_mark(2, "*") {
            let qualifier = self.identifier()?;
            self.at += 2;
            return Ok(SelectItem::All { qualifier: Some(qualifier), span: self.since(start) });
        }
        let expr = self.expression()?;
        let alias = self.alias()?;
        Ok(SelectItem::Single { expr, alias })
    }

    fn alias(&mut self) -> Result<Option<Name>, SqlError> {
        if self.take_word("AS") {
            return self.identifier().map(Some);
        }
        if matches!(self.token(), Token::Word(word) if CLAUSES.contains(&word.as_str())) {
            return Ok(None);
        }
        Ok(self.optional_identifier())
    }

    fn source_ref(&mut self) -> Result<SourceRef, SqlError> {
        let name = self.identifier()?;
        Ok(SourceRef { name, alias: self.alias()? })
    }

    fn join_kind(&mut self) -> Result<Option<JoinKind>, SqlError> {
        let kind = if self.take_word("INNER") {
            JoinKind::Inner
        } else if self.take_word("LEFT") {
            self.take_word("OUTER");
            JoinKind::Left
        } else if self.take_word("RIGHT") {
            self.take_word("OUTER");
            JoinKind::Right
        } else if self.take_word("FULL") || self.is_word("OUTER") {
            self.take_word("OUTER");
            JoinKind::Outer
        } else if self.take_word("JOIN") {
            return Ok(Some(JoinKind::Inner));
        } else {
            return Ok(None);
        };
        self.expect_word("JOIN")?;
        Ok(Some(kind))
    }

    fn join(&mut self, kind: JoinKind) -> Result<Join, SqlError> {
        let start = self.last_span();
        let source = self.source_ref()?;
        let within = if self.take_word("WITHIN") { Some(self.within()?) } else { None };
        self.expect_word("ON")?;
        let on = self.expression()?;
        Ok(Join { kind, source, within, on, span: self.since(start) })
    }

    fn within(&mut self) -> Result<Within, SqlError> {
        let (before_ms, after_ms) = if self.take_mark("(") {
            let before = self.duration()?;
            self.expect_mark(",")?;
            let after = self.duration()?;
            self.expect_mark(")")?;
            (before, after)
        } else {
            let both = self.duration()?;
            (both, both)
        };
        let grace_ms = if self.take_words(&["GRACE", "PERIOD"]) { Some(self.duration()?) } else { None };
        Ok(Within { before_ms, after_ms, grace_ms })
    }

    /// `n UNIT`, in milliseconds.
    pub(super) fn duration(&mut self) -> Result<i64, SqlError> {
        let start = self.span();
        let count = self.integer("a duration")?;
        let unit = match self.token() {
            Token::Word(word) => match word.trim_end_matches('S') {
                "MILLISECOND" => 1,
                "SECOND" => 1_000,
                "MINUTE" => 60_000,
                "HOUR" => 3_600_000,
                "DAY" => 86_400_000,
                _ => return Err(self.unexpected("MILLISECONDS, SECONDS, MINUTES, HOURS, DAYS")),
            },
            _ => return Err(self.unexpected("MILLISECONDS, SECONDS, MINUTES, HOURS, DAYS")),
        };
        self.at += 1;
        count.checked_mul(unit).ok_or_else(|| {
            SqlError::parse("this duration does not fit 64 bits of milliseconds").at(self.since(start))
        })
    }

    fn window(&mut self) -> Result<Window, SqlError> {
        let start = self.last_span();
        if !["TUMBLING", "HOPPING", "SESSION"].iter().any(|word| self.is_word(word))
            && let Some(_name) = self.optional_identifier()
        {
            // A window may carry a name; nothing can refer to it.
        }
        let session = self.is_word("SESSION");
        let hopping = self.is_word("HOPPING");
        if !session && !hopping && !self.is_word("TUMBLING") {
            return Err(self.unexpected("TUMBLING, HOPPING, SESSION"));
        }
        self.at += 1;
        self.expect_mark("(")?;
        let kind = if session {
            WindowKind::Session { gap_ms: self.duration()? }
        } else {
            self.expect_word("SIZE")?;
            let size_ms = self.duration()?;
            if hopping {
                self.expect_mark(",")?;
                self.expect_word("ADVANCE")?;
                self.expect_word("BY")?;
                WindowKind::Hopping { size_ms, advance_ms: self.duration()? }
            } else {
                WindowKind::Tumbling { size_ms }
            }
        };
        let mut window = Window { kind, retention_ms: None, grace_ms: None, span: start };
        while self.take_mark(",") {
            if self.take_word("RETENTION") {
                window.retention_ms = Some(self.duration()?);
            } else if self.take_words(&["GRACE", "PERIOD"]) {
                window.grace_ms = Some(self.duration()?);
            } else {
                return Err(self.unexpected("RETENTION, GRACE PERIOD"));
            }
        }
        self.expect_mark(")")?;
        window.span = self.since(start);
        self.check_window(window)
    }

    fn check_window(&self, window: Window) -> Result<Window, SqlError> {
        let Span { .. } = window.span;
        let refused = |message: String| Err(SqlError::parse(message).at(window.span));
        match window.kind {
            WindowKind::Tumbling { size_ms } | WindowKind::Hopping { size_ms, .. } if size_ms <= 0 => {
                refused("Window sizeMs must be larger than zero.".to_owned())
            }
            WindowKind::Hopping { size_ms, advance_ms } if advance_ms <= 0 || advance_ms > size_ms => {
                refused(format!(
                    "Window advance interval should be more than zero and less than window duration {size_ms}ms, but given advance interval is: {advance_ms}ms"
                ))
            }
            _ => Ok(window),
        }
    }
}
