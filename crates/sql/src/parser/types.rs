//! Types as they are written: built-in names, ARRAY, MAP, STRUCT, custom types.

use herdsman_formats::types::SqlType;

use super::Parser;
use super::lexer::Token;
use crate::ast::TypeName;
use crate::diagnostic::{SqlError, line_column};

impl Parser<'_> {
    pub(super) fn type_name(&mut self) -> Result<TypeName, SqlError> {
        self.deeper(Self::type_inner)
    }

    fn type_inner(&mut self) -> Result<TypeName, SqlError> {
        if let Token::Quoted(_) = self.token() {
            return Ok(TypeName::Custom(self.identifier()?));
        }
        let word = match self.token() {
            Token::Word(word) => word.clone(),
            _ => return Err(self.unexpected("a type")),
        };
        let built = match word.as_str() {
            "BOOLEAN" => SqlType::Boolean,
            "INT" | "INTEGER" => SqlType::Integer,
            "BIGINT" => SqlType::BigInt,
            "DOUBLE" => SqlType::Double,
            "VARCHAR" | "STRING" => SqlType::String,
            "BYTES" => SqlType::Bytes,
            "DATE" => SqlType::Date,
            "TIME" => SqlType::Time,
            "TIMESTAMP" => SqlType::Timestamp,
            "DEC" | "DECIMAL" => return self.decimal(),
            "ARRAY" if self.peek_mark(1, "<") => {
                self.at += 2;
                let element = self.type_name()?;
                self.close_angle()?;
                return Ok(TypeName::Array(Box::new(element)));
            }
            "MAP" if self.peek_mark(1, "<") => {
                self.at += 2;
                let key = self.type_name()?;
                self.expect_mark(",")?;
                let value = self.type_name()?;
                self.close_angle()?;
                return Ok(TypeName::Map(Box::new(key), Box::new(value)));
            }
            "STRUCT" if self.peek_mark(1, "<") || self.peek_mark(1, "<>") => return self.struct_type(),
            _ => return Ok(TypeName::Custom(self.identifier()?)),
        };
        self.at += 1;
        if self.take_mark("(") {
            self.type_parameter()?;
        }
        Ok(TypeName::Built(built))
    }

    fn type_parameter(&mut self) -> Result<(), SqlError> {
        match self.token() {
            Token::Integer(_) => self.at += 1,
            Token::Word(word) if word == "STRING" => self.at += 1,
            _ => {
                let span = self.span();
                let (line, column) = line_column(self.script, span.start);
                return Err(SqlError::parse(format!(
                    "line {line}:{column}: Syntax Error\nExpecting {{'STRING', INTEGER_VALUE}}"
                ))
                .at(span));
            }
        }
        self.expect_mark(")")
    }

    fn struct_type(&mut self) -> Result<TypeName, SqlError> {
        self.at += 1;
        if self.take_mark("<>") {
            return Ok(TypeName::Struct(Vec::new()));
        }
        self.expect_mark("<")?;
        let mut fields = Vec::new();
        if !self.peek_mark(0, ">") {
            fields = self.list(|parser| {
                let name = parser.identifier()?.text;
                Ok((name, parser.type_name()?))
            })?;
        }
        self.close_angle()?;
        Ok(TypeName::Struct(fields))
    }

    fn close_angle(&mut self) -> Result<(), SqlError> {
        self.expect_mark(">")
    }

    fn decimal(&mut self) -> Result<TypeName, SqlError> {
        let start = self.span();
        self.at += 1;
        self.expect_mark("(")?;
        let precision = self.integer("DECIMAL")?;
        let scale = if self.take_mark(",") { self.integer("DECIMAL")? } else { 0 };
        self.expect_mark(")")?;
        let refused = |message: String| Err(SqlError::parse(message).at(start));
        if precision < 1 {
            return refused(format!("DECIMAL precision must be >= 1: DECIMAL({precision},{scale})"));
        }
        if scale > precision {
            return refused(format!("DECIMAL precision must be >= scale: DECIMAL({precision},{scale})"));
        }
        if precision > 38 {
            return refused(format!(
                "DECIMAL({precision},{scale}) has more than 38 digits: use 38 or fewer, or DOUBLE"
            ));
        }
        let digits = |number: i64| u8::try_from(number).unwrap_or(38);
        Ok(TypeName::Built(SqlType::Decimal { precision: digits(precision), scale: digits(scale) }))
    }
}
