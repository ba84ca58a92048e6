//! Statements: one method per leading word.

use super::Parser;
use super::lexer::Token;
use crate::ast::{
    Element, ElementRole, Name, Property, PropertyValue, Show, Statement, StatementKind, Target,
};
use crate::diagnostic::{SqlError, line_column, nearest};

const STATEMENTS: [&str; 22] = [
    "SELECT",
    "CREATE",
    "INSERT",
    "DROP",
    "ALTER",
    "SHOW",
    "LIST",
    "DESCRIBE",
    "EXPLAIN",
    "PRINT",
    "TERMINATE",
    "PAUSE",
    "RESUME",
    "SET",
    "UNSET",
    "DEFINE",
    "UNDEFINE",
    "ASSERT",
    "RUN",
    "SPOOL",
    "DELETE",
    "UPDATE",
];

impl Parser<'_> {
    pub(super) fn statement(&mut self) -> Result<Statement, SqlError> {
        let start = self.span();
        let kind = self.statement_kind()?;
        if !self.ends_statement() {
            return Err(self.unexpected("';'"));
        }
        let mut span = self.since(start);
        if self.peek_mark(0, ";") {
            span = span.to(self.span());
            self.at += 1;
        }
        let text = self.script.get(span.start..span.end).unwrap_or_default().to_owned();
        Ok(Statement { kind, span, text })
    }

    fn statement_kind(&mut self) -> Result<StatementKind, SqlError> {
        let word = match self.token() {
            Token::Word(word) => word.clone(),
            _ => return Err(self.unexpected("a statement")),
        };
        if word == "SELECT" {
            return Ok(StatementKind::Query(self.query()?));
        }
        self.at += 1;
        match word.as_str() {
            "CREATE" => self.create(),
            "INSERT" => self.insert(),
            "DROP" => self.drop(),
            "ALTER" => self.alter(),
            "SHOW" | "LIST" => self.show().map(StatementKind::Show),
            "DESCRIBE" => self.describe(),
            "EXPLAIN" => self.explain(),
            "PRINT" => self.print(),
            "TERMINATE" => Ok(StatementKind::Terminate(self.target()?)),
            "PAUSE" => Ok(StatementKind::Pause(self.target()?)),
            "RESUME" => Ok(StatementKind::Resume(self.target()?)),
            "SET" => {
                let (name, value) = self.assignment()?;
                Ok(StatementKind::Set { name, value })
            }
            "UNSET" => Ok(StatementKind::Unset(self.text_literal()?)),
            "DEFINE" => {
                let name = self.identifier()?.text;
                self.expect_mark("=")?;
                Ok(StatementKind::Define { name, value: self.text_literal()? })
            }
            "UNDEFINE" => Ok(StatementKind::Undefine(self.identifier()?.text)),
            "ASSERT" => self.assert(),
            _ => {
                self.at -= 1;
                Err(self.unknown_statement(&word))
            }
        }
    }

    fn unknown_statement(&self, word: &str) -> SqlError {
        let span = self.span();
        let (line, column) = line_column(self.script, span.start);
        let error =
            SqlError::parse(format!("line {line}:{column}: Syntax Error\nUnknown statement '{word}'"))
                .at(span);
        match nearest(word, STATEMENTS.into_iter().filter(|known| *known != word)) {
            Some(known) => error.help(format!("did you mean {known}?")),
            None => error,
        }
    }

    fn assignment(&mut self) -> Result<(String, String), SqlError> {
        let name = self.text_literal()?;
        self.expect_mark("=")?;
        let value = match self.token() {
            Token::Text(text) => text.clone(),
            Token::Integer(text) | Token::Decimal(text) => text.clone(),
            _ => return Err(self.unexpected("a string in single quotes")),
        };
        self.at += 1;
        Ok((name, value))
    }

    fn target(&mut self) -> Result<Target, SqlError> {
        if self.take_word("ALL") {
            return Ok(Target::All);
        }
        self.identifier().map(Target::One)
    }

    fn if_not_exists(&mut self) -> bool {
        self.take_words(&["IF", "NOT", "EXISTS"])
    }

    fn if_exists(&mut self) -> bool {
        self.take_words(&["IF", "EXISTS"])
    }

    fn create(&mut self) -> Result<StatementKind, SqlError> {
        let or_replace = self.take_words(&["OR", "REPLACE"]);
        if self.take_word("TYPE") {
            let if_not_exists = self.if_not_exists();
            let name = self.identifier()?;
            self.expect_word("AS")?;
            return Ok(StatementKind::CreateType { name, ty: self.type_name()?, if_not_exists });
        }
        for (word, source) in [("SINK", false), ("SOURCE", true)] {
            if self.take_words(&[word, "CONNECTOR"]) {
                let if_not_exists = self.if_not_exists();
                let name = self.identifier()?;
                let with = self.properties()?;
                return Ok(StatementKind::CreateConnector { source, name, if_not_exists, with });
            }
        }
        let read_only = self.take_word("SOURCE");
        let table = self.source_kind()?;
        let if_not_exists = self.if_not_exists();
        let name = self.identifier()?;
        let elements = if self.peek_mark(0, "(") { self.elements()? } else { Vec::new() };
        let with = self.properties()?;
        if elements.is_empty() && !read_only && self.take_word("AS") {
            let query = self.query()?;
            return Ok(StatementKind::CreateAs { table, or_replace, if_not_exists, name, with, query });
        }
        if with.is_empty() && !self.ends_statement() {
            return Err(self.unexpected("'(', WITH, AS"));
        }
        Ok(StatementKind::CreateSource { table, or_replace, read_only, if_not_exists, name, elements, with })
    }

    /// `STREAM` (false) or `TABLE` (true).
    fn source_kind(&mut self) -> Result<bool, SqlError> {
        if self.take_word("STREAM") {
            Ok(false)
        } else if self.take_word("TABLE") {
            Ok(true)
        } else {
            Err(self.unexpected("STREAM, TABLE, TYPE, SOURCE, SINK"))
        }
    }

    fn elements(&mut self) -> Result<Vec<Element>, SqlError> {
        self.expect_mark("(")?;
        let elements = self.list(|parser| {
            let name = parser.identifier()?;
            let ty = parser.type_name()?;
            Ok(Element { name, ty, role: parser.role()? })
        })?;
        self.expect_mark(")")?;
        Ok(elements)
    }

    fn role(&mut self) -> Result<ElementRole, SqlError> {
        if self.take_words(&["PRIMARY", "KEY"]) {
            Ok(ElementRole::PrimaryKey)
        } else if self.take_word("KEY") {
            Ok(ElementRole::Key)
        } else if self.take_word("HEADERS") {
            Ok(ElementRole::Headers)
        } else if self.take_word("HEADER") {
            self.expect_mark("(")?;
            let key = self.text_literal()?;
            self.expect_mark(")")?;
            Ok(ElementRole::Header(key))
        } else {
            Ok(ElementRole::Value)
        }
    }

    /// `WITH (name = value, …)`, if it stands here.
    fn properties(&mut self) -> Result<Vec<Property>, SqlError> {
        if !self.take_word("WITH") {
            return Ok(Vec::new());
        }
        self.expect_mark("(")?;
        let properties = self.list(|parser| {
            let start = parser.span();
            let name = match parser.token() {
                Token::Text(text) => {
                    let text = text.clone();
                    parser.at += 1;
                    text
                }
                _ => parser.identifier()?.text,
            };
            parser.expect_mark("=")?;
            let value = parser.property_value()?;
            Ok(Property { name, value, span: parser.since(start) })
        })?;
        self.expect_mark(")")?;
        Ok(properties)
    }

    fn property_value(&mut self) -> Result<PropertyValue, SqlError> {
        let sign = if self.take_mark("-") { "-" } else { "" };
        let value = match self.token().clone() {
            Token::Text(text) => PropertyValue::String(text),
            Token::Integer(digits) => {
                let text = format!("{sign}{digits}");
                PropertyValue::Integer(text.parse().map_err(|_| {
                    SqlError::parse(format!("Invalid numeric literal: {text}")).at(self.span())
                })?)
            }
            Token::Decimal(digits) => PropertyValue::Decimal(format!("{sign}{digits}")),
            Token::Word(word) if word == "TRUE" => PropertyValue::Boolean(true),
            Token::Word(word) if word == "FALSE" => PropertyValue::Boolean(false),
            _ => return Err(self.unexpected("a string in single quotes, a number, TRUE, FALSE")),
        };
        self.at += 1;
        Ok(value)
    }

    fn insert(&mut self) -> Result<StatementKind, SqlError> {
        self.expect_word("INTO")?;
        let target = self.identifier()?;
        let with = self.properties()?;
        if self.is_word("SELECT") {
            return Ok(StatementKind::InsertInto { target, with, query: self.query()? });
        }
        let columns = if self.take_mark("(") {
            let columns = self.list(Self::identifier)?;
            self.expect_mark(")")?;
            columns
        } else {
            Vec::new()
        };
        if !self.take_word("VALUES") {
            return Err(self.unexpected("'(', VALUES, SELECT"));
        }
        self.expect_mark("(")?;
        let values = self.list(Self::expression)?;
        self.expect_mark(")")?;
        Ok(StatementKind::InsertValues { target, columns, values })
    }

    fn drop(&mut self) -> Result<StatementKind, SqlError> {
        if self.take_word("TYPE") {
            let if_exists = self.if_exists();
            return Ok(StatementKind::DropType { name: self.identifier()?, if_exists });
        }
        if self.take_word("CONNECTOR") {
            let if_exists = self.if_exists();
            return Ok(StatementKind::DropConnector { name: self.identifier()?, if_exists });
        }
        let table = self.source_kind()?;
        let if_exists = self.if_exists();
        let name = self.identifier()?;
        let delete_topic = self.take_words(&["DELETE", "TOPIC"]);
        Ok(StatementKind::DropSource { table, name, if_exists, delete_topic })
    }

    fn alter(&mut self) -> Result<StatementKind, SqlError> {
        if self.take_word("SYSTEM") {
            let (name, value) = self.assignment()?;
            return Ok(StatementKind::AlterSystem { name, value });
        }
        let table = self.source_kind()?;
        let name = self.identifier()?;
        let columns = self.list(|parser| {
            parser.expect_word("ADD")?;
            parser.take_word("COLUMN");
            let column = parser.identifier()?;
            Ok((column, parser.type_name()?))
        })?;
        Ok(StatementKind::AlterSource { table, name, columns })
    }

    fn show(&mut self) -> Result<Show, SqlError> {
        let all = self.take_word("ALL");
        let Token::Word(word) = self.token().clone() else {
            return Err(self.unexpected(SHOWN));
        };
        self.at += 1;
        let show = match word.as_str() {
            "TOPICS" => Show::Topics { all, extended: self.take_word("EXTENDED") },
            "PROPERTIES" => Show::Properties,
            "STREAMS" => Show::Streams { extended: self.take_word("EXTENDED") },
            "TABLES" => Show::Tables { extended: self.take_word("EXTENDED") },
            "FUNCTIONS" => Show::Functions,
            "CONNECTORS" => Show::Connectors(None),
            "SOURCE" | "SINK" => {
                self.expect_word("CONNECTORS")?;
                Show::Connectors(Some(word))
            }
            "CONNECTOR" => {
                self.expect_word("PLUGINS")?;
                Show::ConnectorPlugins
            }
            "TYPES" => Show::Types,
            "VARIABLES" => Show::Variables,
            "QUERIES" => Show::Queries { extended: self.take_word("EXTENDED") },
            _ => {
                self.at -= 1;
                return Err(self.unexpected(SHOWN));
            }
        };
        Ok(show)
    }

    fn describe(&mut self) -> Result<StatementKind, SqlError> {
        if self.take_word("FUNCTION") {
            return Ok(StatementKind::DescribeFunction(self.identifier()?.text));
        }
        if self.take_word("CONNECTOR") {
            return Ok(StatementKind::DescribeConnector(self.identifier()?));
        }
        for (word, tables) in [("STREAMS", false), ("TABLES", true)] {
            if self.take_word(word) {
                return Ok(StatementKind::DescribeAll { tables, extended: self.take_word("EXTENDED") });
            }
        }
        let early = self.is_word("EXTENDED") && !matches!(self.lexeme(1).token, Token::End | Token::Mark(_));
        if early {
            self.at += 1;
        }
        let name = self.identifier()?;
        let extended = early | self.take_word("EXTENDED");
        Ok(StatementKind::Describe { name, extended })
    }

    fn explain(&mut self) -> Result<StatementKind, SqlError> {
        if self.is_word("SELECT") || self.is_word("CREATE") || self.is_word("INSERT") {
            return self.deeper(|parser| {
                let start = parser.span();
                let kind = parser.statement_kind()?;
                let span = parser.since(start);
                let text = parser.script.get(span.start..span.end).unwrap_or_default().to_owned();
                Ok(StatementKind::ExplainStatement(Box::new(Statement { kind, span, text })))
            });
        }
        Ok(StatementKind::ExplainQuery(self.identifier()?))
    }

    fn print(&mut self) -> Result<StatementKind, SqlError> {
        let span = self.span();
        let topic = match self.token().clone() {
            Token::Text(text) => {
                self.at += 1;
                Name { text, span }
            }
            // Topic names are case sensitive, and bare ones are taken as written.
            Token::Word(_) => {
                self.at += 1;
                Name { text: self.script.get(span.start..span.end).unwrap_or_default().to_owned(), span }
            }
            _ => self.identifier()?,
        };
        let from_beginning = self.take_words(&["FROM", "BEGINNING"]);
        let interval = if self.take_word("INTERVAL") || self.take_word("SAMPLE") {
            Some(self.integer("INTERVAL")?)
        } else {
            None
        };
        let limit = if self.take_word("LIMIT") { Some(self.integer("LIMIT")?) } else { None };
        Ok(StatementKind::Print { topic, from_beginning, interval, limit })
    }

    fn assert(&mut self) -> Result<StatementKind, SqlError> {
        let not_exists = self.take_words(&["NOT", "EXISTS"]);
        if self.take_word("TOPIC") {
            let name = self.identifier()?;
            self.properties()?;
            self.timeout()?;
            return Ok(StatementKind::AssertTopic { name, not_exists });
        }
        if self.take_word("SCHEMA") {
            if self.take_word("SUBJECT") {
                self.text_or_identifier()?;
            }
            if self.take_word("ID") {
                self.integer("ID")?;
            }
            self.timeout()?;
            return Ok(StatementKind::AssertSchema { not_exists });
        }
        Err(self.unexpected("TOPIC, SCHEMA"))
    }

    fn text_or_identifier(&mut self) -> Result<String, SqlError> {
        if matches!(self.token(), Token::Text(_)) { self.text_literal() } else { Ok(self.identifier()?.text) }
    }

    fn timeout(&mut self) -> Result<(), SqlError> {
        if self.take_word("TIMEOUT") {
            self.duration()?;
        }
        Ok(())
    }
}

const SHOWN: &str = "STREAMS, TABLES, TOPICS, QUERIES, FUNCTIONS, PROPERTIES, TYPES, VARIABLES, CONNECTORS";
