//! Expressions, by precedence: OR, AND, NOT, predicates, `||`, `+ -`, `* / %`, unary minus, AT TIME ZONE, `[]` and `->`.

use super::lexer::Token;
use super::{DEPTH_MAX, Parser, is_reserved};
use crate::ast::{Arithmetic, Comparison, Expr, ExprKind, Span};
use crate::diagnostic::{SqlError, line_column};

/// Functions whose first argument may be a bare unit of time.
const UNIT_FUNCTIONS: [&str; 6] =
    ["DATEADD", "DATESUB", "TIMEADD", "TIMESUB", "TIMESTAMPADD", "TIMESTAMPSUB"];
const UNITS: [&str; 16] = [
    "YEAR",
    "YEARS",
    "MONTH",
    "MONTHS",
    "WEEK",
    "WEEKS",
    "DAY",
    "DAYS",
    "HOUR",
    "HOURS",
    "MINUTE",
    "MINUTES",
    "SECOND",
    "SECONDS",
    "MILLISECOND",
    "MILLISECONDS",
];

impl Parser<'_> {
    pub(super) fn expression(&mut self) -> Result<Expr, SqlError> {
        let start = self.span();
        let expr = self.deeper(Self::disjunction)?;
        self.check_depth(expr, start)
    }

    fn check_depth(&self, expr: Expr, start: Span) -> Result<Expr, SqlError> {
        if expr.depth > DEPTH_MAX {
            return Err(SqlError::parse(format!(
                "nested deeper than {DEPTH_MAX} levels: split the expression over several streams"
            ))
            .at(start));
        }
        Ok(expr)
    }

    fn disjunction(&mut self) -> Result<Expr, SqlError> {
        let mut terms = vec![self.conjunction()?];
        while self.take_word("OR") {
            terms.push(self.conjunction()?);
        }
        Ok(chain(terms, &|left, right| ExprKind::Or(Box::new(left), Box::new(right))))
    }

    fn conjunction(&mut self) -> Result<Expr, SqlError> {
        let mut terms = vec![self.negation()?];
        while self.take_word("AND") {
            terms.push(self.negation()?);
        }
        Ok(chain(terms, &|left, right| ExprKind::And(Box::new(left), Box::new(right))))
    }

    fn negation(&mut self) -> Result<Expr, SqlError> {
        let start = self.span();
        if self.take_word("NOT") {
            let input = self.deeper(Self::negation)?;
            return Ok(Expr::new(ExprKind::Not(Box::new(input)), self.since(start)));
        }
        self.predicate()
    }

    fn predicate(&mut self) -> Result<Expr, SqlError> {
        let start = self.span();
        let left = self.value_expression()?;
        if let Some(op) = self.comparison() {
            let right = self.value_expression()?;
            let kind = ExprKind::Compare { op, left: Box::new(left), right: Box::new(right) };
            return Ok(Expr::new(kind, self.since(start)));
        }
        if self.take_word("IS") {
            let negated = self.take_word("NOT");
            let input = Box::new(left);
            let kind = if self.take_word("NULL") {
                ExprKind::IsNull { input, negated }
            } else if self.take_words(&["DISTINCT", "FROM"]) {
                let op = if negated { Comparison::IsNotDistinctFrom } else { Comparison::IsDistinctFrom };
                ExprKind::Compare { op, left: input, right: Box::new(self.value_expression()?) }
            } else {
                return Err(self.unexpected("NULL, NOT NULL, DISTINCT FROM"));
            };
            return Ok(Expr::new(kind, self.since(start)));
        }
        let negated =
            ["BETWEEN", "IN", "LIKE"].iter().any(|word| self.is_word("NOT") && self.peek_word(1, word));
        if negated {
            self.at += 1;
        }
        self.range_predicate(start, left, negated)
    }

    fn range_predicate(&mut self, start: Span, left: Expr, negated: bool) -> Result<Expr, SqlError> {
        let input = Box::new(left);
        let kind = if self.take_word("BETWEEN") {
            let low = Box::new(self.value_expression()?);
            self.expect_word("AND")?;
            let high = Box::new(self.value_expression()?);
            ExprKind::Between { input, low, high, negated }
        } else if self.take_word("IN") {
            self.expect_mark("(")?;
            let list = self.list(Self::expression)?;
            self.expect_mark(")")?;
            ExprKind::In { input, list, negated }
        } else if self.take_word("LIKE") {
            let pattern = Box::new(self.value_expression()?);
            let escape = if self.take_word("ESCAPE") { Some(self.escape()?) } else { None };
            ExprKind::Like { input, pattern, escape, negated }
        } else {
            return Ok(*input);
        };
        Ok(Expr::new(kind, self.since(start)))
    }

    fn escape(&mut self) -> Result<char, SqlError> {
        let span = self.span();
        let text = self.text_literal()?;
        let mut chars = text.chars();
        match (chars.next(), chars.next()) {
            (Some(escape), None) => Ok(escape),
            _ => {
                let (line, column) = line_column(self.script, span.start);
                Err(SqlError::parse(format!(
                    "line {line}:{column}: Expected exactly one character in ESCAPE clause"
                ))
                .at(span))
            }
        }
    }

    fn comparison(&mut self) -> Option<Comparison> {
        let Token::Mark(mark) = self.token() else { return None };
        let op = match *mark {
            "=" => Comparison::Equal,
            "<>" | "!=" => Comparison::NotEqual,
            "<" => Comparison::Less,
            "<=" => Comparison::LessOrEqual,
            ">" => Comparison::Greater,
            ">=" => Comparison::GreaterOrEqual,
            _ => return None,
        };
        self.at += 1;
        Some(op)
    }

    pub(super) fn value_expression(&mut self) -> Result<Expr, SqlError> {
        self.deeper(|parser| {
            let start = parser.span();
            let mut left = parser.sum()?;
            let mut count = 0;
            while parser.take_mark("||") {
                parser.count_chain(&mut count)?;
                let right = parser.sum()?;
                let kind = ExprKind::Call { name: "CONCAT".to_owned(), args: vec![left, right], star: false };
                left = Expr::new(kind, parser.since(start));
            }
            parser.check_depth(left, start)
        })
    }

    fn count_chain(&mut self, count: &mut usize) -> Result<(), SqlError> {
        *count += 1;
        if *count > DEPTH_MAX {
            return Err(SqlError::parse(format!(
                "more than {DEPTH_MAX} operators in a row nest too deeply: put parts into parentheses or other streams"
            ))
            .at(self.span()));
        }
        Ok(())
    }

    fn sum(&mut self) -> Result<Expr, SqlError> {
        self.arithmetic(&[("+", Arithmetic::Add), ("-", Arithmetic::Subtract)], Self::product)
    }

    fn product(&mut self) -> Result<Expr, SqlError> {
        let ops = [("*", Arithmetic::Multiply), ("/", Arithmetic::Divide), ("%", Arithmetic::Modulo)];
        self.arithmetic(&ops, Self::unary)
    }

    fn arithmetic(
        &mut self,
        ops: &[(&str, Arithmetic)],
        operand: fn(&mut Self) -> Result<Expr, SqlError>,
    ) -> Result<Expr, SqlError> {
        let start = self.span();
        let mut left = operand(self)?;
        let mut count = 0;
        while let Some((_, op)) = ops.iter().find(|(mark, _)| self.peek_mark(0, mark)) {
            self.at += 1;
            self.count_chain(&mut count)?;
            let right = operand(self)?;
            let kind = ExprKind::Arithmetic { op: *op, left: Box::new(left), right: Box::new(right) };
            left = Expr::new(kind, self.since(start));
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Expr, SqlError> {
        let start = self.span();
        if self.peek_mark(0, "-") {
            let number =
                matches!(self.lexeme(1).token, Token::Integer(_) | Token::Decimal(_) | Token::Float(_));
            self.at += 1;
            if number {
                let kind = self.number("-", start)?;
                let literal = Expr::new(kind, self.since(start));
                return self.suffixes(start, literal);
            }
            let input = self.deeper(Self::unary)?;
            return Ok(Expr::new(ExprKind::Negate(Box::new(input)), self.since(start)));
        }
        if self.take_mark("+") {
            return self.deeper(Self::unary);
        }
        let primary = self.primary()?;
        let mut value = self.suffixes(start, primary)?;
        while self.take_words(&["AT", "TIME", "ZONE"]) {
            let zone = self.primary()?;
            let kind =
                ExprKind::Call { name: "AT_TIME_ZONE".to_owned(), args: vec![value, zone], star: false };
            value = Expr::new(kind, self.since(start));
        }
        Ok(value)
    }

    fn suffixes(&mut self, start: Span, mut value: Expr) -> Result<Expr, SqlError> {
        let mut count = 0;
        loop {
            let kind = if self.take_mark("[") {
                let index = Box::new(self.value_expression()?);
                self.expect_mark("]")?;
                ExprKind::Subscript { input: Box::new(value), index }
            } else if self.take_mark("->") {
                if self.take_mark("*") {
                    ExprKind::AllFields(Box::new(value))
                } else {
                    ExprKind::Field { input: Box::new(value), name: self.identifier()?.text }
                }
            } else {
                return Ok(value);
            };
            self.count_chain(&mut count)?;
            value = Expr::new(kind, self.since(start));
        }
    }

    fn number(&mut self, sign: &str, start: Span) -> Result<ExprKind, SqlError> {
        let token = self.advance();
        let span = self.since(start);
        match token {
            Token::Integer(digits) => {
                let text = format!("{sign}{digits}");
                let long: i64 = text
                    .parse()
                    .map_err(|_| SqlError::parse(format!("Invalid numeric literal: {text}")).at(span))?;
                Ok(i32::try_from(long).map_or(ExprKind::Long(long), ExprKind::Integer))
            }
            Token::Decimal(digits) => Ok(ExprKind::Decimal(format!("{sign}{digits}"))),
            Token::Float(digits) => {
                let text = format!("{sign}{digits}");
                let double: f64 = text
                    .parse()
                    .map_err(|_| SqlError::parse(format!("Invalid numeric literal: {text}")).at(span))?;
                if double.is_infinite() {
                    let (line, column) = line_column(self.script, span.start);
                    return Err(SqlError::parse(format!(
                        "Failed to prepare statement: line {line}:{}: Number overflows DOUBLE: {text}",
                        column + 1
                    ))
                    .at(span));
                }
                Ok(ExprKind::Double(double))
            }
            _ => Err(self.unexpected("a number")),
        }
    }

    fn primary(&mut self) -> Result<Expr, SqlError> {
        let start = self.span();
        let kind = match self.token().clone() {
            Token::Text(text) => {
                self.at += 1;
                ExprKind::String(text)
            }
            Token::Integer(_) | Token::Decimal(_) | Token::Float(_) => self.number("", start)?,
            Token::Mark("(") => {
                self.at += 1;
                let inner = self.expression()?;
                self.expect_mark(")")?;
                return Ok(inner);
            }
            Token::Word(word) => self.word_primary(&word)?,
            Token::Quoted(_) => self.column_or_call()?,
            _ => return Err(self.unexpected("an expression")),
        };
        Ok(Expr::new(kind, self.since(start)))
    }

    fn word_primary(&mut self, word: &str) -> Result<ExprKind, SqlError> {
        match word {
            "NULL" => self.constant(ExprKind::Null),
            "TRUE" => self.constant(ExprKind::Boolean(true)),
            "FALSE" => self.constant(ExprKind::Boolean(false)),
            "CASE" => self.case(),
            "CAST" => self.cast(),
            "ARRAY" if self.peek_mark(1, "[") => self.array(),
            "MAP" if self.peek_mark(1, "(") => self.map(),
            "STRUCT" if self.peek_mark(1, "(") => self.structure(),
            _ if is_reserved(word) && !self.peek_mark(1, "(") => Err(self.unexpected("an expression")),
            _ => self.column_or_call(),
        }
    }

    fn constant(&mut self, kind: ExprKind) -> Result<ExprKind, SqlError> {
        self.at += 1;
        Ok(kind)
    }

    fn case(&mut self) -> Result<ExprKind, SqlError> {
        self.at += 1;
        let operand = if self.is_word("WHEN") { None } else { Some(Box::new(self.value_expression()?)) };
        let mut branches = Vec::new();
        while self.take_word("WHEN") {
            let condition = self.expression()?;
            self.expect_word("THEN")?;
            branches.push((condition, self.expression()?));
        }
        if branches.is_empty() {
            return Err(self.unexpected("WHEN"));
        }
        let otherwise = if self.take_word("ELSE") { Some(Box::new(self.expression()?)) } else { None };
        self.expect_word("END")?;
        Ok(ExprKind::Case { operand, branches, otherwise })
    }

    fn cast(&mut self) -> Result<ExprKind, SqlError> {
        self.at += 1;
        self.expect_mark("(")?;
        let input = Box::new(self.expression()?);
        self.expect_word("AS")?;
        let ty = self.type_name()?;
        self.expect_mark(")")?;
        Ok(ExprKind::Cast { input, ty })
    }

    fn array(&mut self) -> Result<ExprKind, SqlError> {
        self.at += 2;
        let elements = if self.peek_mark(0, "]") { Vec::new() } else { self.list(Self::expression)? };
        self.expect_mark("]")?;
        Ok(ExprKind::Array(elements))
    }

    fn map(&mut self) -> Result<ExprKind, SqlError> {
        self.at += 2;
        let mut entries = Vec::new();
        if !self.peek_mark(0, ")") {
            entries = self.list(|parser| {
                let key = parser.expression()?;
                parser.expect_mark(":=")?;
                Ok((key, parser.expression()?))
            })?;
        }
        self.expect_mark(")")?;
        Ok(ExprKind::Map(entries))
    }

    fn structure(&mut self) -> Result<ExprKind, SqlError> {
        self.at += 2;
        let mut fields = Vec::new();
        if !self.peek_mark(0, ")") {
            fields = self.list(|parser| {
                let name = parser.identifier()?.text;
                parser.expect_mark(":=")?;
                Ok((name, parser.expression()?))
            })?;
        }
        self.expect_mark(")")?;
        Ok(ExprKind::Struct(fields))
    }

    fn column_or_call(&mut self) -> Result<ExprKind, SqlError> {
        if self.peek_mark(1, "(") {
            return self.call();
        }
        let name = self.identifier()?.text;
        if self.peek_mark(0, ".") && !self.peek_mark(1, "*") {
            self.at += 1;
            let column = self.identifier()?.text;
            return Ok(ExprKind::Column { qualifier: Some(name), name: column });
        }
        Ok(ExprKind::Column { qualifier: None, name })
    }

    fn call(&mut self) -> Result<ExprKind, SqlError> {
        let name = match self.advance() {
            Token::Word(text) | Token::Quoted(text) => text,
            _ => return Err(self.unexpected("a function")),
        };
        self.expect_mark("(")?;
        if self.take_mark("*") {
            self.expect_mark(")")?;
            return Ok(ExprKind::Call { name, args: Vec::new(), star: true });
        }
        let mut args = Vec::new();
        if !self.peek_mark(0, ")") {
            let units = UNIT_FUNCTIONS.contains(&name.as_str());
            args = self.list(|parser| parser.argument(units))?;
        }
        self.expect_mark(")")?;
        Ok(ExprKind::Call { name, args, star: false })
    }

    fn argument(&mut self, units: bool) -> Result<Expr, SqlError> {
        let start = self.span();
        if let (true, Token::Word(word)) = (units, self.token())
            && UNITS.contains(&word.as_str())
            && self.peek_mark(1, ",")
        {
            let unit = word.clone();
            self.at += 1;
            return Ok(Expr::new(ExprKind::IntervalUnit(unit), start));
        }
        match self.lambda_params() {
            Some(params) => {
                let body = Box::new(self.expression()?);
                Ok(Expr::new(ExprKind::Lambda { params, body }, self.since(start)))
            }
            None => self.expression(),
        }
    }

    /// `x =>` or `(x, y) =>`; nothing is taken when no `=>` follows.
    fn lambda_params(&mut self) -> Option<Vec<String>> {
        let start = self.at;
        let mut params = Vec::new();
        if self.take_mark("(") {
            while let Some(name) = self.optional_identifier() {
                params.push(name.text);
                if !self.take_mark(",") {
                    break;
                }
            }
            if self.take_mark(")") && self.take_mark("=>") {
                return Some(params);
            }
        } else if let Some(name) = self.optional_identifier() {
            params.push(name.text);
            if self.take_mark("=>") {
                return Some(params);
            }
        }
        self.at = start;
        None
    }
}

/// Joins terms of an associative operator: to the left as ksqlDB does, balanced when the chain is long.
fn chain(mut terms: Vec<Expr>, make: &dyn Fn(Expr, Expr) -> ExprKind) -> Expr {
    if terms.len() > 64 {
        let right = terms.split_off(terms.len() / 2);
        return pair(chain(terms, make), chain(right, make), make);
    }
    let mut terms = terms.into_iter();
    let first = terms.next().unwrap_or(Expr::new(ExprKind::Null, Span::default()));
    terms.fold(first, |left, right| pair(left, right, make))
}

fn pair(left: Expr, right: Expr, make: &dyn Fn(Expr, Expr) -> ExprKind) -> Expr {
    let span = left.span.to(right.span);
    Expr::new(make(left, right), span)
}
