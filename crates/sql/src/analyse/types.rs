//! Type checking: syntax tree in, typed [`stream::expr::Expr`](Expr) out, with ksqlDB's implicit casts.

use herdsman_stream::expr::{ArithmeticOp, CompareOp, Expr, Value};
use herdsman_stream::functions::typing::compare_name;
use herdsman_stream::functions::{self, ArgType, TypeError};
use herdsman_stream::{Column, SqlType};

use super::timestamp;
use crate::ast::{self, Arithmetic, Comparison, ExprKind};
use crate::catalog::Catalog;
use crate::diagnostic::{SqlError, nearest};
use crate::printer::{self, Names};

/// A column an expression may refer to: the alias of its source (empty: made by the plan) and its name.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Col {
    pub alias: String,
    pub name: String,
    pub ty: SqlType,
}

/// Checks expressions over one input.
pub(crate) struct Checker<'a> {
    pub cols: &'a [Col],
    /// Expressions that the input has as a column already (grouping keys, aggregates, table functions).
    pub replace: &'a [(ast::Expr, usize)],
    pub catalog: &'a Catalog,
    pub names: Names,
    pub params: Vec<(String, SqlType)>,
}

/// `None` is the literal NULL, whose type only its neighbours know.
type Checked = Result<Option<Expr>, SqlError>;

impl<'a> Checker<'a> {
    pub(crate) fn new(catalog: &'a Catalog, cols: &'a [Col], names: Names) -> Self {
        Self { cols, replace: &[], catalog, names, params: Vec::new() }
    }

    /// An expression whose type must be known.
    pub(crate) fn value(&mut self, expr: &ast::Expr) -> Result<Expr, SqlError> {
        self.check(expr)?.ok_or_else(|| {
            SqlError::statement("Can't infer a type of null. Please explicitly cast it to a required type, e.g. CAST(null AS VARCHAR).")
                .at(expr.span)
        })
    }

    /// A condition of `clause` (WHERE, HAVING).
    pub(crate) fn condition(&mut self, expr: &ast::Expr, clause: &str) -> Result<Expr, SqlError> {
        let checked = self.check(expr).map_err(|error| {
            let general = ["Cannot compare", "Unknown column", "Comparison with NULL"];
            if general.iter().any(|start| error.message.starts_with(start)) {
                error.prefixed(&format!("Error in {clause} expression: "))
            } else if error.message.starts_with("Function ") || error.message.starts_with("Can't find") {
                error
            } else {
                error.prefixed("Invalid Predicate: ")
            }
        })?;
        match checked {
            Some(condition) if condition.ty() == SqlType::Boolean => Ok(condition),
            other => {
                let ty = other.map_or("null".to_owned(), |condition| condition.ty().to_string());
                Err(SqlError::statement(format!(
                    "Type error in {clause} expression: Should evaluate to boolean but is {} ({ty}) instead.",
                    self.text(expr)
                ))
                .at(expr.span))
            }
        }
    }

    pub(crate) fn text(&self, expr: &ast::Expr) -> String {
        printer::expression(expr, self.names)
    }

    pub(crate) fn check(&mut self, expr: &ast::Expr) -> Checked {
        if let Some((_, index)) = self.replace.iter().find(|(known, _)| known == expr) {
            let ty = self.cols.get(*index).map_or(SqlType::String, |col| col.ty.clone());
            return Ok(Some(Expr::Column { index: *index, ty }));
        }
        self.kind(expr).map_err(|error| error.at(expr.span))
    }

    fn kind(&mut self, expr: &ast::Expr) -> Checked {
        let literal = |value, ty| Ok(Some(Expr::Literal { value, ty }));
        match &expr.kind {
            ExprKind::Null => Ok(None),
            ExprKind::Boolean(flag) => literal(Value::Boolean(*flag), SqlType::Boolean),
            ExprKind::Integer(number) => literal(Value::Integer(*number), SqlType::Integer),
            ExprKind::Long(number) => literal(Value::BigInt(*number), SqlType::BigInt),
            ExprKind::Double(number) => literal(Value::Double(*number), SqlType::Double),
            ExprKind::Decimal(digits) => decimal(digits).map(Some),
            ExprKind::String(text) => literal(Value::String(text.clone()), SqlType::String),
            ExprKind::IntervalUnit(unit) => literal(Value::String(unit.clone()), SqlType::String),
            ExprKind::Column { qualifier, name } => self.column(qualifier.as_deref(), name).map(Some),
            ExprKind::Cast { input, ty } => self.cast(input, ty),
            ExprKind::Arithmetic { op, left, right } => self.arithmetic(expr, *op, left, right),
            ExprKind::Negate(input) => Ok(Some(Expr::Negate(Box::new(self.value(input)?)))),
            ExprKind::Compare { op, left, right } => self.compare(*op, left, right),
            ExprKind::And(left, right) => {
                Ok(Some(Expr::And(Box::new(self.boolean(left)?), Box::new(self.boolean(right)?))))
            }
            ExprKind::Or(left, right) => {
                Ok(Some(Expr::Or(Box::new(self.boolean(left)?), Box::new(self.boolean(right)?))))
            }
            ExprKind::Not(input) => Ok(Some(Expr::Not(Box::new(self.boolean(input)?)))),
            ExprKind::IsNull { input, negated } => {
                let input = self.check(input)?.unwrap_or(null(SqlType::String));
                Ok(Some(Expr::IsNull { input: Box::new(input), negated: *negated }))
            }
            ExprKind::Between { input, low, high, negated } => self.between(input, low, high, *negated),
            ExprKind::In { input, list, negated } => self.membership(input, list, *negated),
            ExprKind::Like { input, pattern, escape, negated } => {
                self.like(input, pattern, *escape, *negated)
            }
            ExprKind::Case { operand, branches, otherwise } => {
                self.case(operand.as_deref(), branches, otherwise.as_deref())
            }
            ExprKind::Call { name, args, star } => self.call(name, args, *star),
            ExprKind::Lambda { .. } => {
                Err(SqlError::statement("A lambda can only be an argument of a function"))
            }
            ExprKind::Subscript { input, index } => self.subscript(expr, input, index),
            ExprKind::Field { input, name } => self.field(input, name),
            ExprKind::AllFields(_) => Err(SqlError::statement("->* can only stand alone in a SELECT")),
            ExprKind::Array(items) => self.array(items),
            ExprKind::Map(entries) => self.map(entries),
            ExprKind::Struct(fields) => self.structure(fields),
        }
    }

    fn column(&self, qualifier: Option<&str>, name: &str) -> Result<Expr, SqlError> {
        if qualifier.is_none()
            && let Some(at) = self.params.iter().rposition(|(param, _)| param == name)
        {
            let ty = self.params[at].1.clone();
            return Ok(Expr::Column { index: self.cols.len() + at, ty });
        }
        let alias = qualifier.unwrap_or_default();
        let found = self.cols.iter().position(|col| col.alias == alias && col.name == name);
        found.map(|index| Expr::Column { index, ty: self.cols[index].ty.clone() }).ok_or_else(|| {
            let error = SqlError::statement(format!("Unknown column {name}."));
            match nearest(name, self.cols.iter().map(|col| col.name.as_str())) {
                Some(known) => error.help(format!("did you mean {known}?")),
                None => error,
            }
        })
    }

    fn cast(&mut self, input: &ast::Expr, ty: &ast::TypeName) -> Checked {
        let ty = self.catalog.resolve_type(ty)?;
        let Some(input) = self.check(input)? else { return Ok(Some(null(ty))) };
        if !functions::can_cast(&input.ty(), &ty) {
            return Err(SqlError::statement(format!(
                "Invalid Select: Cast of {} to {ty} is not supported",
                input.ty()
            )));
        }
        Ok(Some(cast_to(input, &ty)))
    }

    fn boolean(&mut self, expr: &ast::Expr) -> Result<Expr, SqlError> {
        match self.check(expr)? {
            None => Ok(null(SqlType::Boolean)),
            Some(checked) if checked.ty() == SqlType::Boolean => Ok(checked),
            Some(checked) => Err(SqlError::statement(format!(
                "Expected BOOLEAN but {} is {}",
                self.text(expr),
                checked.ty()
            ))
            .at(expr.span)),
        }
    }

    fn arithmetic(
        &mut self,
        whole: &ast::Expr,
        op: Arithmetic,
        left: &ast::Expr,
        right: &ast::Expr,
    ) -> Checked {
        let (l, r) = (self.check(left)?, self.check(right)?);
        let op = match op {
            Arithmetic::Add => ArithmeticOp::Add,
            Arithmetic::Subtract => ArithmeticOp::Subtract,
            Arithmetic::Multiply => ArithmeticOp::Multiply,
            Arithmetic::Divide => ArithmeticOp::Divide,
            Arithmetic::Modulo => ArithmeticOp::Modulo,
        };
        let named =
            |side: &Option<Expr>| side.as_ref().map_or("null".to_owned(), |side| side.ty().to_string());
        let (Some(l), Some(r)) = (&l, &r) else {
            return Err(SqlError::statement(format!(
                "Error processing expression: {}. Arithmetic on types {} and {} are not supported.",
                self.text(whole),
                named(&l),
                named(&r)
            )));
        };
        let ty = functions::arithmetic_type(op, &l.ty(), &r.ty()).map_err(|TypeError(reason)| {
            SqlError::statement(format!("Error processing expression: {}. {reason}", self.text(whole)))
        })?;
        Ok(Some(Expr::Arithmetic { op, left: Box::new(l.clone()), right: Box::new(r.clone()), ty }))
    }

    fn compare(&mut self, op: Comparison, left: &ast::Expr, right: &ast::Expr) -> Checked {
        let (l, r) = (self.check(left)?, self.check(right)?);
        let op = compare_op(op);
        let (l, r) = match (l, r) {
            (Some(l), Some(r)) => (timestamp::magic(right, l)?, timestamp::magic(left, r)?),
            (None, Some(r)) if is_distinct(op) => (null(r.ty()), r),
            (Some(l), None) if is_distinct(op) => {
                let ty = l.ty();
                (l, null(ty))
            }
            (l, r) => {
                let named = |side: &Option<Expr>| {
                    side.as_ref().map_or("null".to_owned(), |side| side.ty().to_string())
                };
                return Err(SqlError::statement(format!(
                    "Comparison with NULL not supported: {} {} {}",
                    named(&l),
                    compare_name(op),
                    named(&r)
                ))
                .help("write IS NULL or IS NOT NULL"));
            }
        };
        self.comparison(op, (left, l), (right, r)).map(Some)
    }

    fn comparison(
        &self,
        op: CompareOp,
        (left, l): (&ast::Expr, Expr),
        (right, r): (&ast::Expr, Expr),
    ) -> Result<Expr, SqlError> {
        if !functions::comparable(op, &l.ty(), &r.ty()) {
            let error = SqlError::statement(format!(
                "Cannot compare {} ({}) to {} ({}) with {}.",
                self.text(left),
                l.ty(),
                self.text(right),
                r.ty(),
                compare_name(op)
            ))
            .at(left.span.to(right.span));
            return Err(self.comparison_help(error, op, (left, &l), (right, &r)));
        }
        Ok(Expr::Compare { op, left: Box::new(l), right: Box::new(r) })
    }

    fn comparison_help(
        &self,
        error: SqlError,
        op: CompareOp,
        (left, l): (&ast::Expr, &Expr),
        (right, r): (&ast::Expr, &Expr),
    ) -> SqlError {
        let sign = match op {
            CompareOp::Equal => "=",
            CompareOp::NotEqual => "<>",
            CompareOp::Less => "<",
            CompareOp::LessOrEqual => "<=",
            CompareOp::Greater => ">",
            CompareOp::GreaterOrEqual => ">=",
            CompareOp::IsDistinctFrom => "IS DISTINCT FROM",
            CompareOp::IsNotDistinctFrom => "IS NOT DISTINCT FROM",
        };
        let (left, right) = (self.text(left), self.text(right));
        let says = |ty: &SqlType| if *ty == SqlType::String { "VARCHAR".to_owned() } else { ty.to_string() };
        let what = format!("{left} {sign} {right} compares {} with {}", says(&l.ty()), says(&r.ty()));
        let number = |ty: &SqlType| if *ty == SqlType::Integer { "INT".to_owned() } else { ty.to_string() };
        match (l, r) {
            (Expr::Column { ty: SqlType::String, .. }, Expr::Literal { .. }) if r.ty().is_numeric() => error
                .help(format!(
                    "{what}: write {left} {sign} '{right}' or CAST({left} AS {}) {sign} {right}",
                    number(&r.ty())
                )),
            (Expr::Column { .. }, Expr::Literal { value: Value::String(text), .. })
                if l.ty().is_numeric() && text.parse::<f64>().is_ok() =>
            {
                error.help(format!("{what}: write {left} {sign} {text}"))
            }
            _ => error.help(what),
        }
    }

    fn between(&mut self, input: &ast::Expr, low: &ast::Expr, high: &ast::Expr, negated: bool) -> Checked {
        let checked = self.value(input)?;
        let mut bounds = Vec::new();
        for (op, bound) in [(CompareOp::GreaterOrEqual, low), (CompareOp::LessOrEqual, high)] {
            let side = self.value(bound)?;
            let side = timestamp::magic(input, side)?;
            self.comparison(op, (input, checked.clone()), (bound, side.clone()))?;
            bounds.push(side);
        }
        let high = Box::new(bounds.pop().unwrap_or(null(SqlType::Boolean)));
        let low = Box::new(bounds.pop().unwrap_or(null(SqlType::Boolean)));
        Ok(Some(Expr::Between { input: Box::new(checked), low, high, negated }))
    }

    fn membership(&mut self, input: &ast::Expr, list: &[ast::Expr], negated: bool) -> Checked {
        let mut items = vec![self.check(input)?];
        for item in list {
            items.push(self.check(item)?);
        }
        let names = self.names;
        let text = |index: usize| {
            let expr = if index == 0 { Some(input) } else { list.get(index - 1) };
            expr.map(|expr| literal_text(expr, names)).unwrap_or_default()
        };
        let (mut items, _) = functions::coerce_list(items, &text)
            .map_err(|TypeError(message)| SqlError::statement(message).prefixed("Invalid Predicate: "))?;
        let input = Box::new(items.remove(0));
        Ok(Some(Expr::In { input, list: items, negated }))
    }

    fn like(
        &mut self,
        input: &ast::Expr,
        pattern: &ast::Expr,
        escape: Option<char>,
        negated: bool,
    ) -> Checked {
        let (input, pattern) = (self.value(input)?, self.value(pattern)?);
        if input.ty() != SqlType::String {
            return Err(SqlError::statement(format!(
                "The column type for Like condition must be VARCHAR. The column type is {}",
                input.ty()
            )));
        }
        if pattern.ty() != SqlType::String {
            return Err(SqlError::statement("Like condition must be between strings"));
        }
        Ok(Some(Expr::Like { input: Box::new(input), pattern: Box::new(pattern), escape, negated }))
    }

    fn case(
        &mut self,
        operand: Option<&ast::Expr>,
        branches: &[(ast::Expr, ast::Expr)],
        otherwise: Option<&ast::Expr>,
    ) -> Checked {
        let mut conditions = Vec::new();
        let mut results = Vec::new();
        for (when, then) in branches {
            let condition = match operand {
                Some(operand) => {
                    let (l, r) = (self.value(operand)?, self.value(when)?);
                    self.comparison(CompareOp::Equal, (operand, l), (when, r))?
                }
                None => self.boolean(when).map_err(|error| {
                    match error.message.starts_with("Expected BOOLEAN") {
                        true => SqlError::statement(format!(
                            "WHEN operand type should be boolean.\nType for '{}' is not BOOLEAN",
                            self.text(when)
                        )),
                        false => error,
                    }
                })?,
            };
            conditions.push(condition);
            results.push(self.check(then)?);
        }
        let has_default = otherwise.is_some();
        if let Some(otherwise) = otherwise {
            results.push(self.check(otherwise)?);
        }
        let names = self.names;
        let sources: Vec<&ast::Expr> = branches.iter().map(|(_, then)| then).chain(otherwise).collect();
        let text =
            |index: usize| sources.get(index).map(|expr| literal_text(expr, names)).unwrap_or_default();
        let (mut results, ty) = if results.iter().all(Option::is_none) {
            return Err(SqlError::statement(
                "Invalid Case expression. All case branches have a null result.",
            ));
        } else {
            functions::coerce_list(results, &text).map_err(|TypeError(message)| {
                SqlError::statement(message).prefixed("Invalid Case expression. ")
            })?
        };
        let otherwise = if has_default { results.pop().map(Box::new) } else { None };
        Ok(Some(Expr::Case { branches: conditions.into_iter().zip(results).collect(), otherwise, ty }))
    }

    fn call(&mut self, name: &str, args: &[ast::Expr], star: bool) -> Checked {
        if star {
            // FN(*) passes no argument; only COUNT knows it, and aggregates do not come here.
            return self.resolve(name, args, &[], Vec::new());
        }
        let mut types: Vec<ArgType> = Vec::new();
        let mut checked: Vec<Option<Expr>> = Vec::new();
        for arg in args {
            if let ExprKind::Lambda { params, .. } = &arg.kind {
                types.push(ArgType::Lambda { params: params.len() });
                checked.push(None);
                continue;
            }
            let value = self.check(arg)?;
            types.push(value.as_ref().map_or(ArgType::Null, |value| ArgType::Value(value.ty())));
            checked.push(value);
        }
        for (index, arg) in args.iter().enumerate() {
            if let ExprKind::Lambda { params, body } = &arg.kind {
                let (ty, lambda) = self.lambda(name, &types, index, params, body)?;
                types[index] = ty;
                checked[index] = Some(lambda);
            }
        }
        self.resolve(name, args, &types, checked)
    }

    fn resolve(
        &mut self,
        name: &str,
        args: &[ast::Expr],
        types: &[ArgType],
        checked: Vec<Option<Expr>>,
    ) -> Checked {
        if functions::kind(name) == Some(functions::FunctionKind::Aggregate) {
            return Err(SqlError::statement(format!("Can't find any functions with the name '{name}'"))
                .help(format!(
                    "{name} is an aggregate: it can stand in SELECT or HAVING of a query with GROUP BY"
                )));
        }
        let resolved = functions::resolve(name, types).map_err(|error| unknown_function(name, error))?;
        let args = checked
            .into_iter()
            .zip(&resolved.arg_types)
            .zip(args)
            .map(|((value, ty), _)| match value {
                None => null(ty.clone()),
                Some(lambda @ Expr::Lambda { .. }) => lambda,
                Some(value) => cast_to(value, ty),
            })
            .collect();
        Ok(Some(Expr::Call { function: resolved.function, args, ty: resolved.return_type }))
    }

    fn lambda(
        &mut self,
        name: &str,
        types: &[ArgType],
        index: usize,
        params: &[String],
        body: &ast::Expr,
    ) -> Result<(ArgType, Expr), SqlError> {
        let param_types =
            functions::lambda_params(name, types, index).map_err(|error| unknown_function(name, error))?;
        if param_types.len() != params.len() {
            return Err(SqlError::statement(format!(
                "Was expecting {} arguments but found {}, {params:?}. Check your lambda statement.",
                param_types.len(),
                params.len()
            )));
        }
        let outer_len = self.cols.len() + self.params.len();
        let before = self.params.len();
        self.params.extend(params.iter().cloned().zip(param_types.iter().cloned()));
        let checked = self.value(body);
        self.params.truncate(before);
        let checked = checked?;
        let ty = ArgType::TypedLambda { params: param_types.clone(), body: checked.ty() };
        Ok((ty, Expr::Lambda { params: param_types, outer_len, body: Box::new(checked) }))
    }

    fn subscript(&mut self, whole: &ast::Expr, input: &ast::Expr, index: &ast::Expr) -> Checked {
        let (source, at) = (self.value(input)?, self.value(index)?);
        let ty = match (source.ty(), at.ty()) {
            (SqlType::Array(element), SqlType::Integer | SqlType::BigInt) => *element,
            (SqlType::Array(_), _) => {
                return Err(SqlError::statement(format!(
                    "Array indexes must be INTEGER: {} has an index of type {}",
                    self.text(whole),
                    at.ty()
                )));
            }
            (SqlType::Map(key, value), ty) if *key == ty => *value,
            (SqlType::Map(key, value), ty) if functions::can_implicitly_cast(&ty, &key) => {
                let index = Box::new(cast_to(at, &key));
                return Ok(Some(Expr::Subscript { input: Box::new(source), index, ty: *value }));
            }
            (other, ty) => {
                return Err(SqlError::statement(format!(
                    "Subscript expression cannot be applied to {other} with an index of type {ty}: {}",
                    self.text(whole)
                )));
            }
        };
        Ok(Some(Expr::Subscript { input: Box::new(source), index: Box::new(at), ty }))
    }

    fn field(&mut self, input: &ast::Expr, name: &str) -> Checked {
        let source = self.value(input)?;
        let SqlType::Struct(fields) = source.ty() else {
            return Err(SqlError::statement(format!(
                "Expected STRUCT type, got: {} for {}",
                source.ty(),
                self.text(input)
            )));
        };
        match fields.iter().position(|field| field.name == name) {
            Some(index) => {
                let ty = fields[index].ty.clone();
                Ok(Some(Expr::Field { input: Box::new(source), index, ty }))
            }
            None => {
                let error =
                    SqlError::statement(format!("Could not find field '{name}' in '{}'.", self.text(input)));
                let known: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
                Err(match nearest(name, known.iter().copied()) {
                    Some(near) => error.help(format!("did you mean {near}?")),
                    None => error.help(format!("it has {}", known.join(", "))),
                })
            }
        }
    }

    fn array(&mut self, items: &[ast::Expr]) -> Checked {
        if items.is_empty() {
            return Err(SqlError::statement(
                "Array constructor cannot be empty. Please supply at least one element (see https://github.com/confluentinc/ksql/issues/4239).",
            ));
        }
        let checked = items.iter().map(|item| self.check(item)).collect::<Result<Vec<_>, _>>()?;
        if checked.iter().all(Option::is_none) {
            return Err(SqlError::statement(
                "Cannot construct an array with all NULL elements (see https://github.com/confluentinc/ksql/issues/4239). As a workaround, you may cast a NULL value to the desired type.",
            ));
        }
        let (elements, ty) = self.coerce(checked, items.iter().collect())?;
        Ok(Some(Expr::MakeArray { elements, ty: SqlType::Array(Box::new(ty)) }))
    }

    fn coerce(
        &self,
        items: Vec<Option<Expr>>,
        sources: Vec<&ast::Expr>,
    ) -> Result<(Vec<Expr>, SqlType), SqlError> {
        let names = self.names;
        let text =
            |index: usize| sources.get(index).map(|expr| literal_text(expr, names)).unwrap_or_default();
        functions::coerce_list(items, &text).map_err(|TypeError(message)| SqlError::statement(message))
    }

    fn map(&mut self, entries: &[(ast::Expr, ast::Expr)]) -> Checked {
        if entries.is_empty() {
            return Err(SqlError::statement(
                "Map constructor cannot be empty. Please supply at least one key value pair (see https://github.com/confluentinc/ksql/issues/4239).",
            ));
        }
        let keys = entries.iter().map(|(key, _)| self.check(key)).collect::<Result<Vec<_>, _>>()?;
        let values = entries.iter().map(|(_, value)| self.check(value)).collect::<Result<Vec<_>, _>>()?;
        if keys.iter().all(Option::is_none) {
            return Err(SqlError::statement(
                "Cannot construct a map with all NULL keys (see https://github.com/confluentinc/ksql/issues/4239). As a workaround, you may cast a NULL key to the desired type.",
            ));
        }
        if values.iter().all(Option::is_none) {
            return Err(SqlError::statement(
                "Cannot construct a map with all NULL values (see https://github.com/confluentinc/ksql/issues/4239). As a workaround, you may cast a NULL value to the desired type.",
            ));
        }
        let (keys, key) = self.coerce(keys, entries.iter().map(|(key, _)| key).collect())?;
        let (values, value) = self.coerce(values, entries.iter().map(|(_, value)| value).collect())?;
        let ty = SqlType::Map(Box::new(key), Box::new(value));
        Ok(Some(Expr::MakeMap { entries: keys.into_iter().zip(values).collect(), ty }))
    }

    fn structure(&mut self, fields: &[(String, ast::Expr)]) -> Checked {
        let mut columns: Vec<Column> = Vec::new();
        let mut values = Vec::new();
        for (name, expr) in fields {
            if columns.iter().any(|column| column.name == *name) {
                return Err(SqlError::statement(format!(
                    "Duplicate field names found in STRUCT: 'STRUCT({})'",
                    fields
                        .iter()
                        .map(|(name, value)| format!("{name}:={}", self.text(value)))
                        .collect::<Vec<_>>()
                        .join(", ")
                )));
            }
            let value = self.value(expr)?;
            columns.push(Column::new(name.clone(), value.ty()));
            values.push(value);
        }
        Ok(Some(Expr::MakeStruct { fields: values, ty: SqlType::Struct(columns) }))
    }
}

/// A function error with the nearest known name.
pub(crate) fn unknown_function(name: &str, error: functions::FunctionError) -> SqlError {
    let mut message = error.to_string();
    let declared_lower =
        functions::kind(name) != Some(functions::FunctionKind::Aggregate) && name != "COALESCE";
    if declared_lower && !matches!(error, functions::FunctionError::Unknown { .. }) {
        // ksqlDB prints the name as the function declares it.
        let lower = name.to_lowercase();
        message = message
            .replace(&format!("'{name}'"), &format!("'{lower}'"))
            .replace(&format!("\n{name}("), &format!("\n{lower}("));
    }
    let refused = SqlError::statement(message);
    if !matches!(error, functions::FunctionError::Unknown { .. }) {
        return refused;
    }
    match nearest(name, functions::list().iter().map(|info| info.name)) {
        Some(known) => refused.help(format!("did you mean {known}?")),
        None => refused.help("SHOW FUNCTIONS lists what there is"),
    }
}

pub(crate) fn null(ty: SqlType) -> Expr {
    Expr::Literal { value: Value::Null, ty }
}

/// `input` as `ty`, without a cast where it has that type already.
pub(crate) fn cast_to(input: Expr, ty: &SqlType) -> Expr {
    if input.ty() == *ty { input } else { Expr::Cast { input: Box::new(input), ty: ty.clone() } }
}

fn is_distinct(op: CompareOp) -> bool {
    matches!(op, CompareOp::IsDistinctFrom | CompareOp::IsNotDistinctFrom)
}

fn compare_op(op: Comparison) -> CompareOp {
    match op {
        Comparison::Equal => CompareOp::Equal,
        Comparison::NotEqual => CompareOp::NotEqual,
        Comparison::Less => CompareOp::Less,
        Comparison::LessOrEqual => CompareOp::LessOrEqual,
        Comparison::Greater => CompareOp::Greater,
        Comparison::GreaterOrEqual => CompareOp::GreaterOrEqual,
        Comparison::IsDistinctFrom => CompareOp::IsDistinctFrom,
        Comparison::IsNotDistinctFrom => CompareOp::IsNotDistinctFrom,
    }
}

/// Literals print bare in coercion messages: `INTEGER = BOOLEAN (true)`.
fn literal_text(expr: &ast::Expr, names: Names) -> String {
    match &expr.kind {
        ExprKind::String(text) => text.clone(),
        _ => printer::expression(expr, names),
    }
}

/// A decimal literal; its precision and scale are those of its digits.
pub(crate) fn decimal(digits: &str) -> Result<Expr, SqlError> {
    let negative = digits.starts_with('-');
    let plain = digits.trim_start_matches('-');
    let (whole, fraction) = plain.split_once('.').unwrap_or((plain, ""));
    let all = format!("{whole}{fraction}");
    let significant = all.trim_start_matches('0').len().max(1);
    let scale = fraction.len();
    let precision = significant.max(scale + usize::from(scale > 0)).max(1);
    let unscaled: Option<i128> = all.parse().ok();
    match (unscaled, u8::try_from(precision), u8::try_from(scale)) {
        (Some(unscaled), Ok(precision), Ok(scale)) if precision <= 38 => {
            let unscaled = if negative { -unscaled } else { unscaled };
            let ty = SqlType::Decimal { precision, scale };
            Ok(Expr::Literal { value: Value::Decimal(unscaled, precision, scale), ty })
        }
        _ => Err(SqlError::parse(format!(
            "{digits} has more than 38 digits: write it as a DOUBLE, {digits}E0"
        ))),
    }
}
