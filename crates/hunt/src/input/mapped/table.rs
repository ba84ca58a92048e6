//! Rows of a Parquet file.

use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, Schema as ArrowSchema};
use arrow::record_batch::RecordBatch;
use herdsman_stream::SqlType;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::super::InputError;
use super::rows::{Rows, read_error};

pub(super) struct ParquetRows {
    file: PathBuf,
    reader: ParquetRecordBatchReader,
    columns: Vec<String>,
    types: Vec<SqlType>,
    pending: Option<RecordBatch>,
    row: u64,
}

/// The SQL type that a column is read as; what SQL has no type for becomes text.
fn sql_type(ty: &DataType) -> SqlType {
    match ty {
        DataType::Boolean => SqlType::Boolean,
        ty if ty.is_integer() => SqlType::BigInt,
        ty if ty.is_floating() => SqlType::Double,
        DataType::Timestamp(..) => SqlType::Timestamp,
        _ => SqlType::String,
    }
}

fn types(schema: &ArrowSchema) -> Vec<SqlType> {
    schema.fields().iter().map(|field| sql_type(field.data_type())).collect()
}

impl ParquetRows {
    pub(super) fn open(file: &Path) -> Result<Self, InputError> {
        let open = File::open(file).map_err(|error| read_error(file, error))?;
        let builder =
            ParquetRecordBatchReaderBuilder::try_new(open).map_err(|error| read_error(file, error))?;
        if builder.metadata().file_metadata().num_rows() == 0 {
            return Err(InputError::Empty(file.display().to_string()));
        }
        let schema = builder.schema().clone();
        let reader = builder.with_batch_size(8_192).build().map_err(|error| read_error(file, error))?;
        Ok(Self {
            file: file.to_owned(),
            reader,
            columns: schema.fields().iter().map(|field| field.name().clone()).collect(),
            types: types(&schema),
            pending: None,
            row: 0,
        })
    }

    pub(super) fn columns(&self) -> &[String] {
        &self.columns
    }

    pub(super) fn types(&self) -> &[SqlType] {
        &self.types
    }

    pub(super) fn next(&mut self, rows: usize) -> Result<Rows, InputError> {
        if self.pending.as_ref().is_none_or(|batch| batch.num_rows() == 0) {
            self.pending = self.reader.next().transpose().map_err(|error| read_error(&self.file, error))?;
        }
        let Some(batch) = &mut self.pending else {
            return Ok(Rows { columns: Vec::new(), lines: Vec::new(), rejected: Vec::new() });
        };
        let len = rows.min(batch.num_rows());
        let taken = batch.slice(0, len);
        *batch = batch.slice(len, batch.num_rows() - len);
        let columns = taken
            .columns()
            .iter()
            .zip(&self.types)
            .map(|(column, ty)| {
                arrow::compute::cast(column, &ty.arrow()).unwrap_or_else(|_| null(ty, column))
            })
            .collect();
        let first = self.row + 1;
        self.row += len as u64;
        Ok(Rows { columns, lines: (first..=self.row).collect(), rejected: Vec::new() })
    }
}

fn null(ty: &SqlType, column: &ArrayRef) -> ArrayRef {
    arrow::array::new_null_array(&ty.arrow(), column.len())
}
