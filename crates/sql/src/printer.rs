//! Expressions and names as ksqlDB prints them in messages and generated statements.

use herdsman_formats::java;

use crate::ast::{Arithmetic, Comparison, Expr, ExprKind, TypeName};
use crate::parser::is_reserved;

/// How column references print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    /// `ALIAS.NAME`
    Qualified,
    /// `NAME`
    Bare,
    /// `ALIAS_NAME`, as columns are called behind a join.
    Joined,
}

/// `name` with backticks if it would not come back as itself.
pub(crate) fn identifier(name: &str) -> String {
    let plain = !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && !is_reserved(name);
    if plain { name.to_owned() } else { format!("`{name}`") }
}

/// SQL text of an expression.
pub(crate) fn expression(expr: &Expr, names: Names) -> String {
    let text = |expr: &Expr| expression(expr, names);
    let list = |items: &[Expr]| items.iter().map(text).collect::<Vec<_>>().join(", ");
    match &expr.kind {
        ExprKind::Null => "null".to_owned(),
        ExprKind::Boolean(flag) => flag.to_string(),
        ExprKind::Integer(number) => number.to_string(),
        ExprKind::Long(number) => number.to_string(),
        ExprKind::Decimal(digits) => digits.clone(),
        ExprKind::Double(number) => java::double_to_string(*number),
        ExprKind::String(text) => format!("'{}'", text.replace('\'', "''")),
        ExprKind::Column { qualifier, name } => match (qualifier, names) {
            (Some(alias), Names::Qualified) => format!("{}.{}", identifier(alias), identifier(name)),
            (Some(alias), Names::Joined) => identifier(&format!("{alias}_{name}")),
            _ => identifier(name),
        },
        ExprKind::Cast { input, ty } => format!("CAST({} AS {})", text(input), type_name(ty)),
        ExprKind::Arithmetic { op, left, right } => {
            format!("({} {} {})", text(left), arithmetic(*op), text(right))
        }
        ExprKind::Negate(input) => format!("-{}", text(input)),
        ExprKind::Compare { op, left, right } => {
            format!("({} {} {})", text(left), comparison(*op), text(right))
        }
        ExprKind::And(left, right) => format!("({} AND {})", text(left), text(right)),
        ExprKind::Or(left, right) => format!("({} OR {})", text(left), text(right)),
        ExprKind::Not(input) => format!("(NOT {})", text(input)),
        ExprKind::IsNull { input, negated: false } => format!("({} IS NULL)", text(input)),
        ExprKind::IsNull { input, negated: true } => format!("({} IS NOT NULL)", text(input)),
        ExprKind::Between { input, low, high, negated } => {
            negate(*negated, format!("({} BETWEEN {} AND {})", text(input), text(low), text(high)))
        }
        ExprKind::In { input, list: items, negated } => {
            negate(*negated, format!("({} IN ({}))", text(input), list(items)))
        }
        ExprKind::Like { input, pattern, escape, negated } => {
            let escape = escape.map(|escape| format!(" ESCAPE '{escape}'")).unwrap_or_default();
            negate(*negated, format!("({} LIKE {}{escape})", text(input), text(pattern)))
        }
        ExprKind::Case { operand, branches, otherwise } => {
            let mut out = "(CASE".to_owned();
            if let Some(operand) = operand {
                out.push_str(&format!(" {}", text(operand)));
            }
            for (when, then) in branches {
                out.push_str(&format!(" WHEN {} THEN {}", text(when), text(then)));
            }
            if let Some(otherwise) = otherwise {
                out.push_str(&format!(" ELSE {}", text(otherwise)));
            }
            out + " END)"
        }
        ExprKind::Call { name, star: true, .. } => format!("{name}(*)"),
        ExprKind::Call { name, args, .. } => format!("{name}({})", list(args)),
        ExprKind::Lambda { params, body } if params.len() == 1 => {
            format!("{} => {}", params.join(""), text(body))
        }
        ExprKind::Lambda { params, body } => format!("({}) => {}", params.join(", "), text(body)),
        ExprKind::IntervalUnit(unit) => unit.clone(),
        ExprKind::Subscript { input, index } => format!("{}[{}]", text(input), text(index)),
        ExprKind::Field { input, name } => format!("{}->{}", text(input), identifier(name)),
        ExprKind::AllFields(input) => format!("{}->*", text(input)),
        ExprKind::Array(items) => format!("ARRAY[{}]", list(items)),
        ExprKind::Map(entries) => {
            let entries: Vec<_> = entries.iter().map(|(k, v)| format!("{}:={}", text(k), text(v))).collect();
            format!("MAP({})", entries.join(", "))
        }
        ExprKind::Struct(fields) => {
            let fields: Vec<_> =
                fields.iter().map(|(k, v)| format!("{}:={}", identifier(k), text(v))).collect();
            format!("STRUCT({})", fields.join(", "))
        }
    }
}

fn negate(negated: bool, text: String) -> String {
    if negated { format!("(NOT {text})") } else { text }
}

/// A type as it was written.
pub(crate) fn type_name(ty: &TypeName) -> String {
    match ty {
        TypeName::Built(ty) => ty.to_string(),
        TypeName::Array(element) => format!("ARRAY<{}>", type_name(element)),
        TypeName::Map(key, value) => format!("MAP<{}, {}>", type_name(key), type_name(value)),
        TypeName::Struct(fields) => {
            let fields: Vec<_> =
                fields.iter().map(|(name, ty)| format!("{} {}", identifier(name), type_name(ty))).collect();
            format!("STRUCT<{}>", fields.join(", "))
        }
        TypeName::Custom(name) => identifier(&name.text),
    }
}

fn arithmetic(op: Arithmetic) -> &'static str {
    match op {
        Arithmetic::Add => "+",
        Arithmetic::Subtract => "-",
        Arithmetic::Multiply => "*",
        Arithmetic::Divide => "/",
        Arithmetic::Modulo => "%",
    }
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
