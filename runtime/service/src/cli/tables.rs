//! `tables` and `path`, and what every reading command needs: a table by its name, rows by their keys.

use super::output::{Format, Out, human_bytes, json_string};
use super::{Call, Tables};
use crate::Error;
use crate::config::nearest;
use std::cmp::Ordering;
use tidemill_types::{TableSchema, Value};

/// The schema of a table; an unknown name is told the known one that is near, else all that people read.
pub fn schema_of<'a>(tables: &'a dyn Tables, name: &str) -> Result<&'a TableSchema, Error> {
    let found = tables.schemas().iter().find(|schema| schema.name == name);
    found.ok_or_else(|| {
        let names: Vec<&str> = tables.schemas().iter().map(|schema| schema.name.as_str()).collect();
        let hint = match nearest(name, names.iter().copied()) {
            Some(near) => format!("did you mean {near}? (`tables` lists them all)"),
            None => {
                let shown = names.into_iter().filter(|name| !name.starts_with("_state."));
                format!("there are {}", shown.collect::<Vec<_>>().join(", "))
            }
        };
        Error::failed(format!("there is no table {name}; {hint}"))
    })
}

/// The order of two values of one kind; nulls first.
fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Str(a), Value::Str(b)) => a.cmp(b),
        (Value::Long(a), Value::Long(b)) | (Value::Micros(a), Value::Micros(b)) => a.cmp(b),
        (Value::Int(a), Value::Int(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
        (Value::Double(a), Value::Double(b)) => a.total_cmp(b),
        (Value::Null, Value::Null) => Ordering::Equal,
        (Value::Null, _) => Ordering::Less,
        (_, Value::Null) => Ordering::Greater,
        _ => Ordering::Equal,
    }
}

/// The order of two rows by their key columns.
pub fn by_key(schema: &TableSchema, a: &[Value], b: &[Value]) -> Ordering {
    schema
        .key_places()
        .map(|place| compare(&a[place], &b[place]))
        .find(|o| o.is_ne())
        .unwrap_or(Ordering::Equal)
}

/// The rows of a table by their keys; with a limit only so many of the first, and no more than about
/// twice as many in memory.
pub fn sorted(
    tables: &dyn Tables,
    schema: &TableSchema,
    limit: Option<u64>,
) -> Result<Vec<Vec<Value>>, Error> {
    let keep = limit.map_or(usize::MAX, |limit| limit as usize);
    let mut rows: Vec<Vec<Value>> = Vec::new();
    tables.for_each(&schema.name, &mut |row| {
        rows.push(row);
        if rows.len() > keep.saturating_mul(2).saturating_add(64) {
            rows.sort_unstable_by(|a, b| by_key(schema, a, b));
            rows.truncate(keep);
        }
        Ok(())
    })?;
    rows.sort_unstable_by(|a, b| by_key(schema, a, b));
    rows.truncate(keep);
    Ok(rows)
}

/// `tables`: names, rows, files, bytes.
pub fn tables(call: &Call<'_>, out: &mut Out<'_>) -> Result<(), Error> {
    let reader = call.reader()?;
    let tables = call.tables(&reader)?;
    let sizes = tables.sizes()?;
    if call.format() == Format::Json {
        for size in &sizes {
            let mut line = String::from("{\"table\":");
            json_string(&size.table, &mut line);
            out.line(&format!(
                "{line},\"rows\":{},\"files\":{},\"bytes\":{}}}",
                size.rows, size.files, size.bytes
            ))?;
        }
        return Ok(());
    }
    let row = |size: &super::reader::TableSize| {
        vec![size.table.clone(), size.rows.to_string(), size.files.to_string(), human_bytes(size.bytes)]
    };
    out.grid(&["table", "rows", "files", "bytes"], &sizes.iter().map(row).collect::<Vec<_>>())
}

/// `path`: a table's metadata location, and the epoch that it is of.
pub fn path(call: &Call<'_>, out: &mut Out<'_>) -> Result<(), Error> {
    let reader = call.reader()?;
    let tables = call.tables(&reader)?;
    let name = &schema_of(&tables, call.text("table"))?.name;
    let (location, epoch) = tables.metadata_location(name)?;
    if call.format() == Format::Json {
        let mut line = String::from("{\"table\":");
        json_string(name, &mut line);
        line.push_str(",\"metadata_location\":");
        json_string(&location, &mut line);
        return out.line(&format!("{line},\"epoch\":{epoch}}}"));
    }
    out.line(&format!("{location}  (epoch {epoch})"))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use tidemill_types::{Epoch, Kind};

    /// Tables in memory.
    pub struct Fixed(pub Vec<TableSchema>, pub Vec<Vec<Vec<Value>>>);

    impl Tables for Fixed {
        fn epoch(&self) -> Epoch {
            7
        }

        fn schemas(&self) -> &[TableSchema] {
            &self.0
        }

        fn for_each(
            &self,
            table: &str,
            each: &mut dyn FnMut(Vec<Value>) -> Result<(), Error>,
        ) -> Result<(), Error> {
            let place = self.0.iter().position(|schema| schema.name == table).unwrap();
            self.1[place].iter().cloned().try_for_each(each)
        }
    }

    fn numbers() -> Fixed {
        let schema = TableSchema::new(
            "t.numbers",
            [("name*", Kind::String), ("n*", Kind::Long), ("x?", Kind::Double)],
        );
        let row = |n: i64| vec![Value::Str(format!("{}", n % 3)), Value::Long(-n), Value::Null];
        Fixed(vec![schema], vec![(0..1000).map(row).collect()])
    }

    #[test]
    fn rows_come_by_their_keys_and_a_limit_keeps_the_first() {
        let tables = numbers();
        let schema = &tables.0[0];
        let all = sorted(&tables, schema, None).unwrap();
        assert_eq!(all.len(), 1000);
        assert!(all.windows(2).all(|pair| by_key(schema, &pair[0], &pair[1]).is_lt()));
        for limit in [0, 1, 20, 999, 5000] {
            assert_eq!(sorted(&tables, schema, Some(limit)).unwrap(), all[..all.len().min(limit as usize)]);
        }
    }

    #[test]
    fn an_unknown_table_is_told_the_nearest() {
        let error = schema_of(&numbers(), "t.nubmers").unwrap_err().to_string();
        assert!(error.contains("did you mean t.numbers?"), "{error}");
    }

    #[test]
    fn an_unknown_table_that_none_is_near_to_is_told_all() {
        let mut tables = numbers();
        tables.0.push(TableSchema::new("_state.t", [("name*", Kind::String)]));
        let error = schema_of(&tables, "nope").unwrap_err().to_string();
        assert_eq!(error, "there is no table nope; there are t.numbers");
    }
}
