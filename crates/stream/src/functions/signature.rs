//! Signatures as text, and the choice of an overload as ksqlDB's index of functions makes it.

use super::{ArgType, FunctionError, typing};
use crate::{Column, SqlType};

/// A parameter's type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Param {
    Plain(SqlType),
    /// Any precision and scale.
    Decimal,
    Generic(char),
    Array(Box<Param>),
    Map(Box<Param>, Box<Param>),
    Struct(Vec<(String, Param)>),
    Lambda(Vec<Param>, Box<Param>),
}

/// One overload: `a STRING, b ARRAY<T>, c INTEGER... -> T`.
#[derive(Debug, Clone)]
pub(crate) struct Signature {
    pub(crate) params: Vec<(String, Param)>,
    pub(crate) variadic: bool,
    pub(crate) result: Param,
}

/// What the single-letter types of a signature stand for in a call.
type Bindings = Vec<(char, SqlType)>;

struct Reader<'t> {
    rest: &'t str,
}

impl<'t> Reader<'t> {
    fn eat(&mut self, token: &str) -> bool {
        let trimmed = self.rest.trim_start();
        match trimmed.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn word(&mut self) -> &'t str {
        let trimmed = self.rest.trim_start();
        let end = trimmed.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(trimmed.len());
        self.rest = &trimmed[end..];
        &trimmed[..end]
    }

    fn list(&mut self, close: &str) -> Vec<Param> {
        let mut items = Vec::new();
        while !self.eat(close) {
            items.push(self.param());
            self.eat(",");
        }
        items
    }

    fn param(&mut self) -> Param {
        let word = self.word();
        match word {
            "ARRAY" if self.eat("<") => {
                let element = self.param();
                self.eat(">");
                Param::Array(Box::new(element))
            }
            "MAP" if self.eat("<") => {
                let key = self.param();
                self.eat(",");
                let value = self.param();
                self.eat(">");
                Param::Map(Box::new(key), Box::new(value))
            }
            "STRUCT" if self.eat("<") => {
                let mut fields = Vec::new();
                while !self.eat(">") {
                    let name = self.word().to_owned();
                    fields.push((name, self.param()));
                    self.eat(",");
                }
                Param::Struct(fields)
            }
            "LAMBDA" => {
                self.eat("(");
                let params = self.list(")");
                self.eat("=>");
                Param::Lambda(params, Box::new(self.param()))
            }
            "DECIMAL" => Param::Decimal,
            "BOOLEAN" => Param::Plain(SqlType::Boolean),
            "INTEGER" => Param::Plain(SqlType::Integer),
            "BIGINT" => Param::Plain(SqlType::BigInt),
            "DOUBLE" => Param::Plain(SqlType::Double),
            "BYTES" => Param::Plain(SqlType::Bytes),
            "DATE" => Param::Plain(SqlType::Date),
            "TIME" => Param::Plain(SqlType::Time),
            "TIMESTAMP" => Param::Plain(SqlType::Timestamp),
            "STRING" => Param::Plain(SqlType::String),
            letter => {
                debug_assert!(letter.len() == 1, "unknown type {letter:?} in a signature");
                Param::Generic(letter.chars().next().unwrap_or('T'))
            }
        }
    }
}

impl Signature {
    /// Reads `name TYPE, name TYPE... -> TYPE` (names may be left out).
    pub(crate) fn parse(text: &str) -> Self {
        let (params, result) = text.split_once(" -> ").unwrap_or(("", text));
        let mut reader = Reader { rest: params };
        let mut list = Vec::new();
        let mut variadic = false;
        while !reader.rest.trim().is_empty() {
            let before = reader.rest;
            let word = reader.word();
            let named = word.chars().next().is_some_and(|c| c.is_ascii_lowercase());
            if !named {
                reader.rest = before;
            }
            let name = if named { word.to_owned() } else { String::new() };
            list.push((name, reader.param()));
            variadic |= reader.eat("...");
            reader.eat(",");
        }
        Self { params: list, variadic, result: Reader { rest: result }.param() }
    }

    /// The parameter that takes argument `index` of `count`.
    fn param(&self, index: usize) -> Option<&Param> {
        match self.params.get(index) {
            Some((_, param)) => Some(param),
            None if self.variadic => self.params.last().map(|(_, param)| param),
            None => None,
        }
    }

    fn accepts_count(&self, count: usize) -> bool {
        if self.variadic { count + 1 >= self.params.len() } else { count == self.params.len() }
    }

    fn generics(&self) -> usize {
        self.params.iter().filter(|(_, param)| has_generics(param)).count()
    }

    fn bind(&self, args: &[ArgType], casts: bool) -> Option<Bindings> {
        if !self.accepts_count(args.len()) {
            return None;
        }
        let mut bindings = Bindings::new();
        for (index, arg) in args.iter().enumerate() {
            if !accepts(self.param(index)?, arg, casts, &mut bindings) {
                return None;
            }
        }
        Some(bindings)
    }

    /// `name(TYPE a, TYPE b)`, as ksqlDB lists alternatives.
    pub(crate) fn describe(&self, name: &str) -> String {
        format!("{name}({})", self.describe_params())
    }

    /// `TYPE a, TYPE... b`
    pub(crate) fn describe_params(&self) -> String {
        let last = self.params.len().saturating_sub(1);
        let param = |(index, (name, param)): (usize, &(String, Param))| {
            let dots = if self.variadic && index == last { "..." } else { "" };
            let gap = if name.is_empty() { "" } else { " " };
            format!("{}{dots}{gap}{name}", describe(param))
        };
        self.params.iter().enumerate().map(param).collect::<Vec<_>>().join(", ")
    }
}

/// As ksqlDB prints a parameter's type.
pub(crate) fn describe(param: &Param) -> String {
    match param {
        Param::Plain(SqlType::String) => "VARCHAR".to_owned(),
        Param::Plain(SqlType::Integer) => "INT".to_owned(),
        Param::Plain(ty) => ty.to_string(),
        Param::Decimal => "DECIMAL".to_owned(),
        Param::Generic(letter) => letter.to_string(),
        Param::Array(element) => format!("ARRAY<{}>", describe(element)),
        Param::Map(key, value) => format!("MAP<{}, {}>", describe(key), describe(value)),
        Param::Struct(fields) => {
            let field = |(name, param): &(String, Param)| format!("{name} {}", describe(param));
            format!("STRUCT<{}>", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
        Param::Lambda(params, result) => {
            let params: Vec<String> = params.iter().map(describe).collect();
            format!("LAMBDA ({}) => {}", params.join(", "), describe(result))
        }
    }
}

fn has_generics(param: &Param) -> bool {
    match param {
        Param::Generic(_) => true,
        Param::Array(element) => has_generics(element),
        Param::Map(key, value) => has_generics(key) || has_generics(value),
        Param::Struct(fields) => fields.iter().any(|(_, param)| has_generics(param)),
        Param::Lambda(params, result) => params.iter().any(has_generics) || has_generics(result),
        Param::Plain(_) | Param::Decimal => false,
    }
}

fn accepts(param: &Param, arg: &ArgType, casts: bool, bindings: &mut Bindings) -> bool {
    match (param, arg) {
        (_, ArgType::Null) => !matches!(param, Param::Lambda(..)),
        (Param::Lambda(wanted, _), ArgType::Lambda { params }) => wanted.len() == *params,
        (Param::Lambda(wanted, result), ArgType::TypedLambda { params, body }) => {
            wanted.len() == params.len()
                && wanted.iter().zip(params).all(|(param, ty)| accepts_type(param, ty, false, bindings))
                && accepts_type(result, body, casts, bindings)
        }
        (param, ArgType::Value(ty)) => accepts_type(param, ty, casts, bindings),
        _ => false,
    }
}

fn accepts_type(param: &Param, ty: &SqlType, casts: bool, bindings: &mut Bindings) -> bool {
    match (param, ty) {
        (Param::Generic(letter), ty) => match bindings.iter().find(|(bound, _)| bound == letter) {
            Some((_, bound)) => bound == ty || (casts && typing::can_implicitly_cast(ty, bound)),
            None => {
                bindings.push((*letter, ty.clone()));
                true
            }
        },
        (Param::Plain(wanted), ty) => wanted == ty || (casts && typing::can_implicitly_cast(ty, wanted)),
        (Param::Decimal, SqlType::Decimal { .. }) => true,
        (Param::Decimal, ty) => casts && typing::as_decimal(ty).is_some(),
        (Param::Array(element), SqlType::Array(ty)) => accepts_type(element, ty, casts, bindings),
        (Param::Map(key, value), SqlType::Map(key_type, value_type)) => {
            accepts_type(key, key_type, casts, bindings) && accepts_type(value, value_type, casts, bindings)
        }
        (Param::Struct(fields), SqlType::Struct(columns)) => {
            fields.len() == columns.len()
                && fields.iter().all(|(name, param)| {
                    let column = columns.iter().find(|column| column.name == *name);
                    column.is_some_and(|column| accepts_type(param, &column.ty, false, bindings))
                })
        }
        _ => false,
    }
}

/// The SQL type of `param` in a call; `given` is the argument's own type, if it has one.
fn concrete(param: &Param, given: Option<&SqlType>, bindings: &Bindings) -> Option<SqlType> {
    Some(match param {
        Param::Plain(ty) => ty.clone(),
        Param::Decimal => {
            let (precision, scale) = given.and_then(typing::as_decimal).unwrap_or((38, 0));
            SqlType::Decimal { precision, scale }
        }
        Param::Generic(letter) => bindings.iter().find(|(bound, _)| bound == letter)?.1.clone(),
        Param::Array(element) => {
            let inner = if let Some(SqlType::Array(ty)) = given { Some(&**ty) } else { None };
            SqlType::Array(Box::new(concrete(element, inner, bindings)?))
        }
        Param::Map(key, value) => {
            let (k, v) =
                if let Some(SqlType::Map(k, v)) = given { (Some(&**k), Some(&**v)) } else { (None, None) };
            SqlType::Map(Box::new(concrete(key, k, bindings)?), Box::new(concrete(value, v, bindings)?))
        }
        Param::Struct(fields) => SqlType::Struct(
            fields
                .iter()
                .map(|(name, param)| Some(Column::new(name, concrete(param, None, bindings)?)))
                .collect::<Option<_>>()?,
        ),
        Param::Lambda(_, result) => concrete(result, given, bindings)?,
    })
}

/// A chosen overload: its index, the types its arguments are cast to, and the type of its result (if it follows from
/// the bindings alone).
pub(crate) struct Choice {
    pub(crate) index: usize,
    pub(crate) arg_types: Vec<SqlType>,
    pub(crate) result: Option<SqlType>,
}

/// Chooses among `signatures` for `args`: without casts first, then with; fixed arity before variadic, more
/// parameters before fewer, fewer generics before more.
pub(crate) fn choose(
    name: &str,
    signatures: &[Signature],
    args: &[ArgType],
) -> Result<Choice, FunctionError> {
    for casts in [false, true] {
        let mut best: Vec<(usize, Bindings)> = Vec::new();
        let rank = |signature: &Signature| {
            (!signature.variadic, signature.params.len(), std::cmp::Reverse(signature.generics()))
        };
        for (index, signature) in signatures.iter().enumerate() {
            let Some(bindings) = signature.bind(args, casts) else { continue };
            match best.first().map(|(other, _)| rank(signature).cmp(&rank(&signatures[*other]))) {
                None | Some(std::cmp::Ordering::Equal) => best.push((index, bindings)),
                Some(std::cmp::Ordering::Greater) => best = vec![(index, bindings)],
                Some(std::cmp::Ordering::Less) => {}
            }
        }
        if best.len() > 1 {
            let (given, alternatives) = wording(name, signatures, args);
            return Err(FunctionError::Ambiguous { name: name.to_owned(), given, alternatives });
        }
        if let Some((index, bindings)) = best.pop() {
            let signature = &signatures[index];
            let arg_types = args.iter().enumerate().map(|(at, arg)| {
                let given = match arg {
                    ArgType::Value(ty) | ArgType::TypedLambda { body: ty, .. } => Some(ty),
                    ArgType::Null | ArgType::Lambda { .. } => None,
                };
                signature.param(at).and_then(|param| concrete(param, given, &bindings))
            });
            if let Some(arg_types) = arg_types.collect::<Option<Vec<_>>>() {
                let result = concrete(&signature.result, None, &bindings);
                return Ok(Choice { index, arg_types, result });
            }
        }
    }
    let (given, alternatives) = wording(name, signatures, args);
    Err(FunctionError::NoOverload { name: name.to_owned(), given, alternatives })
}

/// Types of the parameters of the lambda at `index`, from the other arguments.
pub(crate) fn lambda_params(
    name: &str,
    signatures: &[Signature],
    args: &[ArgType],
    index: usize,
) -> Result<Vec<SqlType>, FunctionError> {
    for casts in [false, true] {
        for signature in signatures {
            let Some(Param::Lambda(params, _)) = signature.param(index) else { continue };
            let Some(bindings) = signature.bind(args, casts) else { continue };
            if let Some(types) = params.iter().map(|param| concrete(param, None, &bindings)).collect() {
                return Ok(types);
            }
        }
    }
    let (given, alternatives) = wording(name, signatures, args);
    Err(FunctionError::NoOverload { name: name.to_owned(), given, alternatives })
}

/// Argument types and alternatives as ksqlDB words them.
pub(crate) fn wording(name: &str, signatures: &[Signature], args: &[ArgType]) -> (String, String) {
    let given: Vec<String> = args
        .iter()
        .map(|arg| match arg {
            ArgType::Value(ty) => unescaped(ty),
            ArgType::Null => "null".to_owned(),
            ArgType::Lambda { .. } | ArgType::TypedLambda { .. } => "LAMBDA".to_owned(),
        })
        .collect();
    let alternatives: Vec<String> = signatures.iter().map(|signature| signature.describe(name)).collect();
    (given.join(", "), alternatives.join("\n"))
}

/// ksqlDB prints argument types without back quotes.
pub(crate) fn unescaped(ty: &SqlType) -> String {
    ty.to_string().replace('`', "")
}
