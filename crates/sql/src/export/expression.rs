//! Expressions in Flink's words; a function without an equal there is refused by name.

use herdsman_stream::SqlType;

use super::{quote, refuse, table, text};
use crate::analyse::{Checker, Col};
use crate::ast::{Arithmetic, Comparison, Expr, ExprKind};
use crate::catalog::Catalog;
use crate::diagnostic::SqlError;
use crate::printer::Names;

/// The Flink text of a column: qualifier and name in, identifier out.
pub(super) type ColumnText<'a> = dyn Fn(Option<&str>, &str) -> Result<String, SqlError> + 'a;

/// Writes expressions over some sources.
pub(super) struct Writer<'a> {
    pub catalog: &'a Catalog,
    /// For types.
    pub cols: &'a [Col],
    /// Flink text of a column.
    pub column: &'a ColumnText<'a>,
}

impl Writer<'_> {
    fn ty(&self, expr: &Expr) -> Option<SqlType> {
        Checker::new(self.catalog, self.cols, Names::Bare).check(expr).ok().flatten().map(|typed| typed.ty())
    }

    pub(super) fn write(&self, expr: &Expr) -> Result<String, SqlError> {
        self.kind(expr).map_err(|error| error.at(expr.span))
    }

    fn list(&self, items: &[Expr]) -> Result<Vec<String>, SqlError> {
        items.iter().map(|item| self.write(item)).collect()
    }

    fn kind(&self, expr: &Expr) -> Result<String, SqlError> {
        Ok(match &expr.kind {
            ExprKind::Null => "NULL".to_owned(),
            ExprKind::Boolean(flag) => flag.to_string().to_uppercase(),
            ExprKind::Integer(number) => number.to_string(),
            ExprKind::Long(number) => number.to_string(),
            ExprKind::Decimal(digits) => digits.clone(),
            ExprKind::Double(number) => format!("{number:E}"),
            ExprKind::String(literal) => text(literal),
            ExprKind::Column { qualifier, name } => (self.column)(qualifier.as_deref(), name)?,
            ExprKind::Cast { input, ty } => {
                format!("CAST({} AS {})", self.write(input)?, table::ty(&self.catalog.resolve_type(ty)?)?)
            }
            ExprKind::Arithmetic { op, left, right } => self.arithmetic(*op, left, right)?,
            ExprKind::Negate(input) => format!("(-{})", self.write(input)?),
            ExprKind::Compare { op, left, right } => {
                format!("({} {} {})", self.write(left)?, comparison(*op), self.write(right)?)
            }
            ExprKind::And(left, right) => format!("({} AND {})", self.write(left)?, self.write(right)?),
            ExprKind::Or(left, right) => format!("({} OR {})", self.write(left)?, self.write(right)?),
            ExprKind::Not(input) => format!("(NOT {})", self.write(input)?),
            ExprKind::IsNull { input, negated } => {
                format!("({} IS {}NULL)", self.write(input)?, if *negated { "NOT " } else { "" })
            }
            ExprKind::Between { input, low, high, negated } => format!(
                "({} {}BETWEEN {} AND {})",
                self.write(input)?,
                not(*negated),
                self.write(low)?,
                self.write(high)?
            ),
            ExprKind::In { input, list, negated } => {
                format!("({} {}IN ({}))", self.write(input)?, not(*negated), self.list(list)?.join(", "))
            }
            ExprKind::Like { input, pattern, escape, negated } => {
                let escape = escape.map(|escape| format!(" ESCAPE '{escape}'")).unwrap_or_default();
                format!("({} {}LIKE {}{escape})", self.write(input)?, not(*negated), self.write(pattern)?)
            }
            ExprKind::Case { operand, branches, otherwise } => {
                self.case(operand.as_deref(), branches, otherwise.as_deref())?
            }
            ExprKind::Call { name, args, star } => self.call(name, args, *star)?,
            ExprKind::Subscript { input, index } => self.subscript(input, index)?,
            ExprKind::Field { input, name } => format!("{}.{}", self.write(input)?, quote(name)),
            ExprKind::Array(items) => format!("ARRAY[{}]", self.list(items)?.join(", ")),
            ExprKind::Map(entries) => {
                let mut parts = Vec::new();
                for (key, value) in entries {
                    parts.push(self.write(key)?);
                    parts.push(self.write(value)?);
                }
                format!("MAP[{}]", parts.join(", "))
            }
            ExprKind::Struct(_) => {
                return Err(refuse("STRUCT(…): Flink's ROW constructor has no field names"));
            }
            ExprKind::Lambda { .. } => return Err(refuse("a lambda")),
            ExprKind::IntervalUnit(unit) => return Err(refuse(format!("the unit {unit} as an argument"))),
            ExprKind::AllFields(_) => return Err(refuse("->*")),
        })
    }

    fn arithmetic(&self, op: Arithmetic, left: &Expr, right: &Expr) -> Result<String, SqlError> {
        let sign = match op {
            Arithmetic::Add if self.ty(left) == Some(SqlType::String) => "||",
            Arithmetic::Add => "+",
            Arithmetic::Subtract => "-",
            Arithmetic::Multiply => "*",
            Arithmetic::Divide => "/",
            Arithmetic::Modulo => "%",
        };
        Ok(format!("({} {sign} {})", self.write(left)?, self.write(right)?))
    }

    fn case(
        &self,
        operand: Option<&Expr>,
        branches: &[(Expr, Expr)],
        otherwise: Option<&Expr>,
    ) -> Result<String, SqlError> {
        let mut out = "CASE".to_owned();
        if let Some(operand) = operand {
            out.push_str(&format!(" {}", self.write(operand)?));
        }
        for (when, then) in branches {
            out.push_str(&format!(" WHEN {} THEN {}", self.write(when)?, self.write(then)?));
        }
        if let Some(otherwise) = otherwise {
            out.push_str(&format!(" ELSE {}", self.write(otherwise)?));
        }
        Ok(out + " END")
    }

    fn subscript(&self, input: &Expr, index: &Expr) -> Result<String, SqlError> {
        if let (ExprKind::Call { name, args, .. }, ExprKind::Integer(at)) = (&input.kind, &index.kind)
            && let ("SPLIT", [value, delimiter], 1..) = (name.as_str(), args.as_slice(), *at)
        {
            return Ok(format!(
                "SPLIT_INDEX({}, {}, {})",
                self.write(value)?,
                self.write(delimiter)?,
                at - 1
            ));
        }
        match &index.kind {
            ExprKind::Integer(at) if *at < 1 => Err(refuse("an array index that counts from the end")),
            _ => Ok(format!("{}[{}]", self.write(input)?, self.write(index)?)),
        }
    }

    fn call(&self, name: &str, args: &[Expr], star: bool) -> Result<String, SqlError> {
        if star {
            return Ok(format!("{name}(*)"));
        }
        let written = self.list(args)?;
        let all = written.join(", ");
        Ok(match (name, written.as_slice()) {
            ("COUNT", []) => "COUNT(*)".to_owned(),
            ("COUNT" | "SUM" | "MIN" | "MAX", [_]) => format!("{name}({all})"),
            ("AVG", [one]) => format!("AVG(CAST({one} AS DOUBLE))"),
            ("COUNT_DISTINCT", [one]) => format!("COUNT(DISTINCT {one})"),
            ("LATEST_BY_OFFSET", [one]) => format!("LAST_VALUE({one})"),
            ("EARLIEST_BY_OFFSET", [one]) => format!("FIRST_VALUE({one})"),
            ("AS_VALUE", [one]) => one.clone(),
            ("CONCAT", _) => format!("CONCAT({all})"),
            ("UCASE", [one]) => format!("UPPER({one})"),
            ("LCASE", [one]) => format!("LOWER({one})"),
            ("LEN", [one]) => format!("CHAR_LENGTH({one})"),
            ("IFNULL", [_, _]) => format!("COALESCE({all})"),
            (
                "CEIL" | "FLOOR" | "ABS" | "SQRT" | "EXP" | "LN" | "SIGN" | "TRIM" | "INITCAP" | "MD5"
                | "SIN" | "COS" | "TAN",
                [_],
            )
            | ("SUBSTRING", [_, _] | [_, _, _])
            | (
                "REPLACE" | "LPAD" | "RPAD" | "COALESCE" | "NULLIF" | "POWER" | "GREATEST" | "LEAST"
                | "CONCAT_WS" | "ELT",
                _,
            ) => {
                format!("{name}({all})")
            }
            _ => return Err(refuse(format!("the function {name} with {} arguments", args.len()))),
        })
    }
}

fn not(negated: bool) -> &'static str {
    if negated { "NOT " } else { "" }
}

fn comparison(op: Comparison) -> &'static str {
    match op {
        Comparison::Equal => "=",
        Comparison::NotEqual => "<>",
        Comparison::Less => "<",
        Comparison::LessOrEqual => "<=",
        Comparison::Greater => ">",
        Comparison::GreaterOrEqual => ">=",
        Comparison::IsDistinctFrom => "IS DISTINCT FROM",
        Comparison::IsNotDistinctFrom => "IS NOT DISTINCT FROM",
    }
}
