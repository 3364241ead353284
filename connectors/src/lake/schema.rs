//! A table's schema as Iceberg and as Arrow have it.
//!
//! Field ids are the columns' places from 1; the items of list columns follow after the last column, in
//! order. That is the numbering that Iceberg's own builder gives a new table, so the two agree.

use super::{LakeError, unusable};
use arrow::array::{Array, ArrayRef, ListArray};
use arrow::datatypes::{DataType, Field, Schema as ArrowSchema, SchemaRef};
use iceberg::spec::{ListType, NestedField, NestedFieldRef, PrimitiveType, Schema, Type};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use std::collections::HashMap;
use std::sync::Arc;
use tidemill_core::columns::{ColumnError, Texts, arrow_type};
use tidemill_types::{Kind, TableSchema};

fn with_id(field: Field, id: usize) -> Field {
    field.with_metadata(HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_string(), id.to_string())]))
}

/// The ids of a table's list items, by the column's place.
fn item_ids(schema: &TableSchema) -> HashMap<usize, usize> {
    let lists = schema.columns.iter().enumerate().filter(|(_, c)| c.kind == Kind::Floats);
    lists.enumerate().map(|(nth, (place, _))| (place, schema.columns.len() + 1 + nth)).collect()
}

/// The Arrow schema of a table's data files, with field ids.
pub(super) fn arrow_schema(schema: &TableSchema) -> SchemaRef {
    let items = item_ids(schema);
    let fields = schema.columns.iter().enumerate().map(|(place, column)| {
        let kind = match arrow_type(column.kind, Texts::Strings) {
            DataType::List(item) => {
                let item = with_id(item.as_ref().clone(), items.get(&place).copied().unwrap_or(0));
                DataType::List(Arc::new(item))
            }
            other => other,
        };
        with_id(Field::new(&column.name, kind, column.nullable), place + 1)
    });
    Arc::new(ArrowSchema::new(fields.collect::<Vec<_>>()))
}

/// Gives an array exactly the type of its field: the items of a list carry their id in the type.
pub(super) fn conform(array: ArrayRef, field: &Field) -> Result<ArrayRef, ColumnError> {
    match (field.data_type(), array.as_any().downcast_ref::<ListArray>()) {
        (DataType::List(item), Some(list)) => Ok(Arc::new(ListArray::try_new(
            item.clone(),
            list.offsets().clone(),
            list.values().clone(),
            list.nulls().cloned(),
        )?)),
        _ => Ok(array),
    }
}

fn primitive(kind: Kind) -> PrimitiveType {
    match kind {
        Kind::String | Kind::Text => PrimitiveType::String,
        Kind::Long => PrimitiveType::Long,
        Kind::Int => PrimitiveType::Int,
        Kind::Double => PrimitiveType::Double,
        Kind::Boolean => PrimitiveType::Boolean,
        Kind::Binary => PrimitiveType::Binary,
        Kind::Timestamp => PrimitiveType::Timestamptz,
        Kind::Floats => PrimitiveType::Float,
    }
}

/// The Iceberg schema of a table. The key columns are its identifier fields.
pub(super) fn iceberg_schema(schema: &TableSchema) -> Result<Schema, LakeError> {
    let items = item_ids(schema);
    let fields = schema.columns.iter().enumerate().map(|(place, column)| -> NestedFieldRef {
        let id = place as i32 + 1;
        let kind = match column.kind {
            Kind::Floats => {
                let item_id = items.get(&place).copied().unwrap_or(0) as i32;
                let item = Type::Primitive(PrimitiveType::Float);
                Type::List(ListType::new(Arc::new(NestedField::list_element(item_id, item, true))))
            }
            kind => Type::Primitive(primitive(kind)),
        };
        Arc::new(NestedField::new(id, &column.name, kind, !column.nullable))
    });
    let identifies = |kind: Kind| !matches!(kind, Kind::Double | Kind::Floats);
    let keys: Vec<i32> = match schema.columns.iter().filter(|c| c.key).all(|c| identifies(c.kind)) {
        true => schema.key_places().map(|place| place as i32 + 1).collect(),
        false => Vec::new(),
    };
    let built = Schema::builder().with_fields(fields).with_identifier_field_ids(keys).build();
    built.map_err(unusable(&schema.name))
}

/// Refuses a stored table whose columns are not those of the program.
pub(super) fn check_same(schema: &TableSchema, stored: &Schema) -> Result<(), LakeError> {
    let wanted = iceberg_schema(schema)?;
    if wanted.as_struct() == stored.as_struct() {
        return Ok(());
    }
    let names = |s: &Schema| {
        let fields = s.as_struct().fields().iter();
        fields.map(|f| format!("{} {}", f.name, f.field_type)).collect::<Vec<_>>().join(", ")
    };
    Err(LakeError::Refused(format!(
        "the stored table {} has the columns ({}), but the program's has ({}); use another store for this program",
        schema.name,
        names(stored),
        names(&wanted)
    )))
}
