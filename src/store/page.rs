//! Lists that may be longer than one answer.

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
