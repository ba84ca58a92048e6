//! Typing rules of operators: arithmetic results, comparability, coercion of lists, casts.

use crate::expr::{ArithmeticOp, CompareOp, Expr, Value};
use crate::numbers;
use crate::{Column, SqlType};

/// A typing mistake, in ksqlDB's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TypeError(pub String);

/// The widest decimal of Arrow and of ksqlDB's formats.
pub const MAX_PRECISION: u8 = 38;

/// The decimal type that holds every value of a whole-number type or decimal.
#[must_use]
pub fn as_decimal(ty: &SqlType) -> Option<(u8, u8)> {
    match ty {
        SqlType::Integer => Some((10, 0)),
        SqlType::BigInt => Some((19, 0)),
        SqlType::Decimal { precision, scale } => Some((*precision, *scale)),
        _ => None,
    }
}

/// A decimal wide enough for both (precision capped at 38, the scale gives way).
#[must_use]
pub fn widen_decimals(left: (u8, u8), right: (u8, u8)) -> SqlType {
    let whole = (left.0 - left.1).max(right.0 - right.1);
    let scale = left.1.max(right.1);
    capped(i32::from(whole) + i32::from(scale), i32::from(scale))
}

fn capped(precision: i32, scale: i32) -> SqlType {
    let max = i32::from(MAX_PRECISION);
    let scale = if precision > max { (scale - (precision - max)).max(scale.min(6)) } else { scale };
    let narrow = |value: i32| u8::try_from(value.clamp(0, max)).unwrap_or(MAX_PRECISION);
    SqlType::Decimal { precision: narrow(precision.max(1)), scale: narrow(scale) }
}

/// Type of `left op right`: the wider number; ksqlDB's precision formulas for decimals, capped at 38 digits (the scale
/// gives way, never below 6); STRING for STRING `+` STRING.
///
/// # Errors   if the types cannot be combined.
pub fn arithmetic_type(op: ArithmeticOp, left: &SqlType, right: &SqlType) -> Result<SqlType, TypeError> {
    let unsupported = || TypeError(format!("Unsupported arithmetic types. {left} {right}"));
    match (left, right) {
        (SqlType::String, SqlType::String) if op == ArithmeticOp::Add => Ok(SqlType::String),
        (l, r) if !l.is_numeric() || !r.is_numeric() => Err(unsupported()),
        (SqlType::Double, _) | (_, SqlType::Double) => Ok(SqlType::Double),
        (SqlType::Decimal { .. }, _) | (_, SqlType::Decimal { .. }) => {
            let left = as_decimal(left).ok_or_else(unsupported)?;
            let right = as_decimal(right).ok_or_else(unsupported)?;
            Ok(decimal_result(op, left, right))
        }
        (SqlType::BigInt, _) | (_, SqlType::BigInt) => Ok(SqlType::BigInt),
        _ => Ok(SqlType::Integer),
    }
}

fn decimal_result(op: ArithmeticOp, left: (u8, u8), right: (u8, u8)) -> SqlType {
    let (lp, ls) = (i32::from(left.0), i32::from(left.1));
    let (rp, rs) = (i32::from(right.0), i32::from(right.1));
    let scale = ls.max(rs);
    match op {
        ArithmeticOp::Add | ArithmeticOp::Subtract => capped(scale + (lp - ls).max(rp - rs) + 1, scale),
        ArithmeticOp::Multiply => capped(lp + rp + 1, ls + rs),
        ArithmeticOp::Divide => {
            let scale = (ls + rp + 1).max(6);
            capped(lp - ls + rs + scale, scale)
        }
        ArithmeticOp::Modulo => capped((lp - ls).min(rp - rs) + scale, scale),
    }
}

/// Whether `left op right` may be compared. The caller words the error:
/// `Cannot compare <left text> (<type>) to <right text> (<type>) with <op name>.` ([`compare_name`]).
#[must_use]
pub fn comparable(op: CompareOp, left: &SqlType, right: &SqlType) -> bool {
    let ordered = matches!(
        op,
        CompareOp::Less | CompareOp::LessOrEqual | CompareOp::Greater | CompareOp::GreaterOrEqual
    );
    match (left, right) {
        (l, r) if l.is_numeric() && r.is_numeric() => true,
        (SqlType::String, r) if is_time(r) => true,
        (l, SqlType::String) if is_time(l) => true,
        (SqlType::Date, SqlType::Timestamp) | (SqlType::Timestamp, SqlType::Date) => true,
        (SqlType::String, SqlType::String) | (SqlType::Bytes, SqlType::Bytes) => true,
        (l, r) if is_time(l) && l == r => true,
        (SqlType::Boolean, SqlType::Boolean) => !ordered,
        (SqlType::Array(_) | SqlType::Map(..) | SqlType::Struct(_), r) => !ordered && left == r,
        _ => false,
    }
}

/// The operator's name in ksqlDB's messages: `LESS_THAN`.
#[must_use]
pub fn compare_name(op: CompareOp) -> &'static str {
    match op {
        CompareOp::Equal => "EQUAL",
        CompareOp::NotEqual => "NOT_EQUAL",
        CompareOp::Less => "LESS_THAN",
        CompareOp::LessOrEqual => "LESS_THAN_OR_EQUAL",
        CompareOp::Greater => "GREATER_THAN",
        CompareOp::GreaterOrEqual => "GREATER_THAN_OR_EQUAL",
        CompareOp::IsDistinctFrom => "IS_DISTINCT_FROM",
        CompareOp::IsNotDistinctFrom => "IS_NOT_DISTINCT_FROM",
    }
}

fn is_time(ty: &SqlType) -> bool {
    matches!(ty, SqlType::Date | SqlType::Time | SqlType::Timestamp)
}

/// The widest of `types` to which all the others cast implicitly (numbers widen; equal types stay), if there is one.
#[must_use]
pub fn common_type(types: &[SqlType]) -> Option<SqlType> {
    let mut common = types.first()?.clone();
    for ty in &types[1..] {
        common = widen(ty, &common, false)?;
    }
    Some(common)
}

/// The wider of two types, if one coerces to the other.
fn widen(from: &SqlType, to: &SqlType, literal: bool) -> Option<SqlType> {
    match (from, to) {
        (a, b) if a == b => Some(a.clone()),
        (SqlType::Double, n) | (n, SqlType::Double) if n.is_numeric() => Some(SqlType::Double),
        (SqlType::Decimal { .. }, n) | (n, SqlType::Decimal { .. }) if n.is_numeric() => {
            Some(widen_decimals(as_decimal(from)?, as_decimal(to)?))
        }
        (SqlType::Integer | SqlType::BigInt, SqlType::Integer | SqlType::BigInt) => Some(SqlType::BigInt),
        (SqlType::String, time) if literal && is_time(time) => Some(time.clone()),
        (SqlType::Array(a), SqlType::Array(b)) => Some(SqlType::Array(Box::new(widen(a, b, literal)?))),
        (SqlType::Map(ak, av), SqlType::Map(bk, bv)) => {
            Some(SqlType::Map(Box::new(widen(ak, bk, literal)?), Box::new(widen(av, bv, literal)?)))
        }
        (SqlType::Struct(a), SqlType::Struct(b)) if same_names(a, b) => {
            let field =
                |(a, b): (&Column, &Column)| Some(Column::new(&a.name, widen(&a.ty, &b.ty, literal)?));
            Some(SqlType::Struct(a.iter().zip(b).map(field).collect::<Option<_>>()?))
        }
        _ => None,
    }
}

fn same_names(a: &[Column], b: &[Column]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.name == b.name)
}

/// Gives all expressions of a list (ARRAY[…], MAP values, IN, CASE results, BETWEEN) one type, as ksqlDB does: string
/// literals become numbers, booleans or times if another element is one; `None` stands for NULL.
/// `text(i)` is the SQL text of element `i`, for messages. Returns the cast expressions and the type.
///
/// # Errors   `operator does not exist: INTEGER = STRING (text)`, `invalid input syntax for type BIGINT: "x".`
pub fn coerce_list(
    items: Vec<Option<Expr>>,
    text: &dyn Fn(usize) -> String,
) -> Result<(Vec<Expr>, SqlType), TypeError> {
    let mut common = None;
    for (index, item) in items.iter().enumerate() {
        if let Some(item) = item {
            common = Some(match &common {
                None => item.ty(),
                Some(target) => resolve_common(item, target).map_err(|failure| match failure {
                    Failure::Mismatch => TypeError(format!(
                        "operator does not exist: {target} = {} ({})\nHint: You might need to add explicit type casts.",
                        item.ty(),
                        text(index)
                    )),
                    Failure::Syntax(message) => TypeError(message),
                })?,
            });
        }
    }
    let ty = common.ok_or_else(|| {
        TypeError(
            "Can't infer a type of null. Please explicitly cast it to a required type, e.g. CAST(null AS VARCHAR)."
                .to_owned(),
        )
    })?;
    let cast = |item: Option<Expr>| match item {
        None => Expr::Literal { value: Value::Null, ty: ty.clone() },
        Some(item) => convert(item, &ty),
    };
    let items = items.into_iter().map(cast).collect();
    Ok((items, ty))
}

enum Failure {
    Mismatch,
    Syntax(String),
}

fn resolve_common(item: &Expr, target: &SqlType) -> Result<SqlType, Failure> {
    match (item, target) {
        (Expr::MakeArray { elements, .. }, SqlType::Array(element)) => {
            Ok(SqlType::Array(Box::new(fold_common(elements.iter(), element)?)))
        }
        (Expr::MakeMap { entries, .. }, SqlType::Map(key, value)) => Ok(SqlType::Map(
            Box::new(fold_common(entries.iter().map(|(key, _)| key), key)?),
            Box::new(fold_common(entries.iter().map(|(_, value)| value), value)?),
        )),
        (Expr::MakeStruct { fields, ty: SqlType::Struct(own) }, SqlType::Struct(target)) => {
            let mut merged = Vec::new();
            for (column, field) in own.iter().zip(fields) {
                let ty = match target.iter().find(|other| other.name == column.name) {
                    Some(other) => resolve_common(field, &other.ty)?,
                    None => column.ty.clone(),
                };
                merged.push(Column::new(&column.name, ty));
            }
            let missing = target.iter().filter(|other| own.iter().all(|column| column.name != other.name));
            merged.extend(missing.cloned());
            Ok(SqlType::Struct(merged))
        }
        (Expr::Literal { value: Value::Null, .. }, target) => Ok(target.clone()),
        (Expr::Literal { value: Value::String(text), .. }, target) if target.is_numeric() => {
            string_number_type(text, target)
        }
        (Expr::Literal { value: Value::String(text), .. }, SqlType::Boolean) => {
            match numbers::parse_boolean_exact(text) {
                Some(_) => Ok(SqlType::Boolean),
                None => Err(bad_syntax(text, &SqlType::Boolean)),
            }
        }
        _ => {
            let literal = matches!(item, Expr::Literal { .. });
            widen(&item.ty(), target, literal).ok_or(Failure::Mismatch)
        }
    }
}

fn fold_common<'a>(items: impl Iterator<Item = &'a Expr>, target: &SqlType) -> Result<SqlType, Failure> {
    let mut common = target.clone();
    for item in items {
        common = resolve_common(item, &common)?;
    }
    Ok(common)
}

fn bad_syntax(text: &str, target: &SqlType) -> Failure {
    let ty =
        if matches!(target, SqlType::Decimal { .. }) { "DECIMAL".to_owned() } else { target.to_string() };
    Failure::Syntax(format!(
        "invalid input syntax for type {ty}: \"{text}\".\nHint: You might need to add explicit type casts."
    ))
}

fn string_number_type(text: &str, target: &SqlType) -> Result<SqlType, Failure> {
    let (unscaled, scale) = numbers::parse_decimal(text).map_err(|_| bad_syntax(text, target))?;
    let whole = scale == 0 && !text.contains(['.', 'e', 'E']);
    let source = match unscaled.to_i128() {
        Some(value) if whole && i32::try_from(value).is_ok() => SqlType::Integer,
        Some(value) if whole && i64::try_from(value).is_ok() => SqlType::BigInt,
        Some(value) => {
            let scale = u8::try_from(scale.clamp(0, 38)).unwrap_or(0);
            let precision = u8::try_from(numbers::digits(value)).unwrap_or(MAX_PRECISION).max(scale + 1);
            SqlType::Decimal { precision: precision.min(MAX_PRECISION), scale }
        }
        None => return Err(bad_syntax(text, target)),
    };
    widen(&source, target, true).ok_or(Failure::Mismatch)
}

/// `item` cast to `ty`; constructors are cast inside, so that their literals keep their digits.
fn convert(item: Expr, ty: &SqlType) -> Expr {
    if item.ty() == *ty {
        return item;
    }
    match (item, ty) {
        (Expr::Literal { value: Value::Null, .. }, _) => Expr::Literal { value: Value::Null, ty: ty.clone() },
        (Expr::MakeArray { elements, .. }, SqlType::Array(element)) => Expr::MakeArray {
            elements: elements.into_iter().map(|item| convert(item, element)).collect(),
            ty: ty.clone(),
        },
        (Expr::MakeMap { entries, .. }, SqlType::Map(key, value)) => Expr::MakeMap {
            entries: entries.into_iter().map(|(k, v)| (convert(k, key), convert(v, value))).collect(),
            ty: ty.clone(),
        },
        (Expr::MakeStruct { fields, ty: SqlType::Struct(own) }, SqlType::Struct(target)) => {
            let mut fields: Vec<Option<Expr>> = fields.into_iter().map(Some).collect();
            let pick = |column: &Column| {
                let position = own.iter().position(|other| other.name == column.name);
                match position.and_then(|index| fields[index].take()) {
                    Some(field) => convert(field, &column.ty),
                    None => Expr::Literal { value: Value::Null, ty: column.ty.clone() },
                }
            };
            Expr::MakeStruct { fields: target.iter().map(pick).collect(), ty: ty.clone() }
        }
        (item, _) => Expr::Cast { input: Box::new(item), ty: ty.clone() },
    }
}

/// Whether `CAST(from AS to)` exists. If not, ksqlDB says `Cast of <from> to <to> is not supported`.
#[must_use]
pub fn can_cast(from: &SqlType, to: &SqlType) -> bool {
    match (from, to) {
        (a, b) if a == b => true,
        (a, b) if a.is_numeric() && b.is_numeric() => true,
        (SqlType::String, b) => b.is_numeric() || is_time(b) || *b == SqlType::Boolean,
        (SqlType::Bytes, SqlType::String) => false,
        (_, SqlType::String) => true,
        (SqlType::Timestamp, SqlType::Date | SqlType::Time) | (SqlType::Date, SqlType::Timestamp) => true,
        (SqlType::Array(a), SqlType::Array(b)) => can_cast(a, b),
        (SqlType::Map(ak, av), SqlType::Map(bk, bv)) => can_cast(ak, bk) && can_cast(av, bv),
        (SqlType::Struct(a), SqlType::Struct(b)) => a.iter().all(|field| {
            b.iter().find(|other| other.name == field.name).is_none_or(|other| can_cast(&field.ty, &other.ty))
        }),
        _ => false,
    }
}

/// Whether an argument of type `from` is silently cast to a parameter of type `to`.
#[must_use]
pub fn can_implicitly_cast(from: &SqlType, to: &SqlType) -> bool {
    match (from, to) {
        (a, b) if a == b => true,
        (SqlType::Integer, SqlType::BigInt | SqlType::Decimal { .. } | SqlType::Double)
        | (SqlType::BigInt, SqlType::Decimal { .. } | SqlType::Double)
        | (SqlType::Decimal { .. }, SqlType::Double) => true,
        (SqlType::Decimal { precision: p1, scale: s1 }, SqlType::Decimal { precision: p2, scale: s2 }) => {
            s1 <= s2 && p1 - s1 <= p2 - s2
        }
        (SqlType::String, to) => is_time(to),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(precision: u8, scale: u8) -> SqlType {
        SqlType::Decimal { precision, scale }
    }

    fn text_literal(text: &str) -> Option<Expr> {
        Some(Expr::Literal { value: Value::String(text.into()), ty: SqlType::String })
    }

    fn int(value: i32) -> Option<Expr> {
        Some(Expr::Literal { value: Value::Integer(value), ty: SqlType::Integer })
    }

    #[test]
    fn arithmetic_results_follow_the_precision_formulas_and_stop_at_38_digits() {
        use ArithmeticOp::{Add, Divide, Modulo, Multiply};
        let d42 = decimal(4, 2);
        for (op, left, right, result) in [
            (Add, &SqlType::Integer, &SqlType::BigInt, SqlType::BigInt),
            (Add, &d42, &SqlType::Double, SqlType::Double),
            (Add, &d42, &d42, decimal(5, 2)),
            (Multiply, &d42, &d42, decimal(9, 4)),
            (Divide, &d42, &d42, decimal(11, 7)),
            (Modulo, &d42, &d42, decimal(4, 2)),
            (Add, &d42, &SqlType::Integer, decimal(13, 2)),
            (Multiply, &decimal(21, 19), &decimal(21, 19), decimal(38, 33)),
        ] {
            assert_eq!(arithmetic_type(op, left, right).unwrap(), result);
        }
        assert!(arithmetic_type(Multiply, &SqlType::String, &SqlType::String).is_err());
    }

    #[test]
    fn lists_take_the_widest_type_and_name_what_does_not_fit() {
        let text = |index: usize| format!("item{index}");
        let (items, ty) = coerce_list(vec![int(1), None, text_literal("2.50")], &text).unwrap();
        assert_eq!((items.len(), ty), (3, decimal(12, 2)));
        let error = coerce_list(vec![int(1), text_literal("not 10")], &text).unwrap_err();
        assert!(error.0.starts_with("invalid input syntax for type INTEGER: \"not 10\"."), "{error}");
        let truth = Some(Expr::Literal { value: Value::Boolean(true), ty: SqlType::Boolean });
        let error = coerce_list(vec![int(1), truth], &text).unwrap_err();
        assert!(error.0.starts_with("operator does not exist: INTEGER = BOOLEAN (item1)\nHint:"), "{error}");
        assert!(coerce_list(vec![None], &text).is_err());
    }

    #[test]
    fn only_equality_is_defined_on_structured_types() {
        let array = SqlType::Array(Box::new(SqlType::Integer));
        assert!(comparable(CompareOp::Equal, &array, &array));
        assert!(!comparable(CompareOp::Less, &array, &array));
        assert!(comparable(CompareOp::Less, &SqlType::Timestamp, &SqlType::String));
        assert!(!comparable(CompareOp::Equal, &SqlType::Integer, &SqlType::String));
    }
}
