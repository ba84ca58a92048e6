//! One SQL expression over columns that a caller names, without a statement around it.

use herdsman_stream::Schema;
use herdsman_stream::expr::Expr;

use crate::analyse::{Checker, Col};
use crate::catalog::Catalog;
use crate::diagnostic::SqlError;
use crate::parser;
use crate::printer::Names;

/// Parses and types `text` over the columns of `schema`; the result refers to them by index, key columns first.
/// Unquoted names are upper case, as everywhere in SQL.
///
/// # Errors   as for an expression in a statement: unknown column or function, types that do not fit.
pub fn compile_expression(text: &str, schema: &Schema) -> Result<Expr, SqlError> {
    let cols: Vec<Col> = schema
        .columns()
        .map(|column| Col { alias: String::new(), name: column.name.clone(), ty: column.ty.clone() })
        .collect();
    let catalog = Catalog::default();
    let compiled = parser::with_deep_stack(|| {
        let parsed = parser::parse_expression(text)?;
        Checker::new(&catalog, &cols, Names::Bare).value(&parsed)
    });
    compiled.map_err(|error| error.locate(text, text))
}
