//! Where a JSON value in a stream of characters ends, without parsing it.

/// Counts brackets outside of strings, one character at a time.
#[derive(Debug, Clone, Default)]
pub(super) struct JsonScanner {
    depth: usize,
    in_string: bool,
    after_backslash: bool,
}

impl JsonScanner {
    /// Takes the next character; returns how many brackets are open after it.
    pub(super) fn step(&mut self, character: char) -> usize {
        if self.in_string {
            let is_escaped = std::mem::take(&mut self.after_backslash);
            match character {
                '\\' => self.after_backslash = !is_escaped,
                '"' => self.in_string = is_escaped,
                _ => {}
            }
            return self.depth;
        }
        match character {
            '"' => self.in_string = true,
            '{' | '[' => self.depth += 1,
            '}' | ']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.depth
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_in_strings_do_not_count() {
        let mut scanner = JsonScanner::default();
        let depths: Vec<usize> = r#"{"}\"]": [1]}"#.chars().map(|character| scanner.step(character)).collect();
        assert_eq!(depths, [1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 1, 0]);
    }
}
