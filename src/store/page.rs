//! Lists that may be longer than one answer.

use rusqlite::{Connection, Row, ToSql};

use super::StoreError;

/// Which part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageQuery {
    /// Begin behind the object with this id.
    pub after: Option<String>,
    /// Leave out so many.
    pub skip: u64,
    /// Most items.
    pub limit: u64,
    /// Which end comes first.
    pub order: Order,
}

/// By time of creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Oldest first.
    Ascending,
    /// Newest first.
    Descending,
}

/// Part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// At most as many as were asked for.
    pub items: Vec<T>,
    /// Are there more behind these?
    pub has_more: bool,
    /// How many the whole list has.
    pub total: u64,
}

/// A list in the database.
pub(super) struct Listing<'a> {
    /// What is read of each row.
    pub(super) columns: &'a str,
    /// `FROM .. WHERE ..`, with the parameters `?1` and so on.
    pub(super) rows: &'a str,
    pub(super) parameters: &'a [&'a dyn ToSql],
    /// Begin behind this row.
    pub(super) after: Option<i64>,
}

impl Listing<'_> {
    /// Reads a part of it.
    pub(super) fn page<T>(
        &self,
        connection: &Connection,
        query: &PageQuery,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Page<T>, StoreError> {
        let Self { columns, rows, parameters, after } = *self;
        let total = connection.query_row(&format!("SELECT count(*) {rows}"), parameters, |row| row.get(0))?;
        let sql = format!("SELECT {columns} {rows} {}", query.order.tail(parameters.len() + 1));
        let limit = query.limit.saturating_add(1);
        let tail: [&dyn ToSql; 3] = [&after, &limit, &query.skip];
        let mut statement = connection.prepare_cached(&sql)?;
        let items = statement.query_map(&*[parameters, &tail].concat(), read)?;
        Ok(Page::new(items.collect::<Result<_, _>>()?, query, total))
    }
}

impl<T> Page<T> {
    /// From up to one item more than was asked for.
    pub(super) fn new(mut items: Vec<T>, query: &PageQuery, total: u64) -> Self {
        let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
        let has_more = items.len() > limit;
        items.truncate(limit);
        Self { items, has_more, total }
    }
}

/// A condition: the JSON object in `column` has every member of the one in that parameter, if there is one. They are
/// compared as JSON, value by value, whatever their order.
pub(super) fn has_labels(column: &str, parameter: usize) -> String {
    format!(
        "(?{parameter} IS NULL OR NOT EXISTS (SELECT 1 FROM json_each(?{parameter}) AS wanted WHERE NOT EXISTS \
             (SELECT 1 FROM json_each({column}) AS label \
              WHERE label.key = wanted.key AND label.type = wanted.type AND label.value IS wanted.value)))"
    )
}

impl Order {
    /// The end of a query: `after` is the parameter of the row to begin behind, the others follow it.
    pub(super) fn tail(self, after: usize) -> String {
        let (compare, direction) = match self {
            Self::Ascending => (">", "ASC"),
            Self::Descending => ("<", "DESC"),
        };
        let (limit, skip) = (after + 1, after + 2);
        format!(
            "AND (?{after} IS NULL OR row {compare} ?{after}) ORDER BY row {direction} LIMIT ?{limit} OFFSET ?{skip}"
        )
    }
}
