//! A Jinja template's own text: what stands outside of its tags, and the strings inside of them.
//!
//! Main function: [`map_literals`]. It follows minijinja's lexer as far as that matters: comments, raw blocks, and
//! tags that end only outside of strings and brackets. What it cannot follow is left as it is; minijinja refuses
//! that too.

/// The template with `map` applied to all of its own text, piece by piece. Strings that are single words are left
/// alone: they are roles and keys. So are escapes, which end a piece.
pub(super) fn map_literals(source: &str, map: &dyn Fn(&str) -> String) -> String {
    let mut mapped = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = tag_start(rest) {
        let (text, tag) = rest.split_at(start);
        mapped.push_str(&map(text));
        rest = if let Some(comment) = tag.strip_prefix("{#") {
            let rest = comment.split_once("#}").map_or("", |(_, rest)| rest);
            mapped.push_str(&tag[..tag.len() - rest.len()]);
            rest
        } else if let Some(len) = plain_tag(tag, "raw") {
            let (begin, raw) = tag.split_at(len);
            let mut ends = raw.match_indices("{%").map(|(at, _)| at);
            let end = ends.find(|&at| plain_tag(&raw[at..], "endraw").is_some()).unwrap_or(raw.len());
            mapped.push_str(begin);
            mapped.push_str(&map(&raw[..end]));
            &raw[end..] // whose tag has no strings
        } else {
            push_tag(tag, map, &mut mapped)
        };
    }
    mapped.push_str(&map(rest));
    mapped
}

fn tag_start(text: &str) -> Option<usize> {
    text.match_indices('{').map(|(at, _)| at).find(|&at| text[at + 1..].starts_with(['{', '%', '#']))
}

/// The length of the tag `{% name %}` that the text begins with.
fn plain_tag(text: &str, name: &str) -> Option<usize> {
    let blank = |letter: char| letter.is_ascii_whitespace();
    let inner = text.strip_prefix("{%")?;
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner).trim_start_matches(blank);
    let end = inner.strip_prefix(name)?.trim_start_matches(blank);
    let rest = end.strip_prefix(['-', '+']).unwrap_or(end).strip_prefix("%}")?;
    Some(text.len() - rest.len())
}

/// Writes a tag with its strings mapped; returns what stands behind it.
fn push_tag<'s>(tag: &'s str, map: &dyn Fn(&str) -> String, mapped: &mut String) -> &'s str {
    let end = if tag.starts_with("{{") { "}}" } else { "%}" };
    let (begin, mut rest) = tag.split_at(2);
    mapped.push_str(begin);
    let mut depth = 0;
    while let Some(letter) = rest.chars().next() {
        if depth == 0 && rest.starts_with(end) {
            mapped.push_str(end);
            return &rest[end.len()..];
        }
        match letter {
            '"' | '\'' => {
                rest = push_string(rest, map, mapped);
                continue;
            }
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        mapped.push(letter);
        rest = &rest[letter.len_utf8()..];
    }
    rest
}

/// Writes a string, mapped; returns what stands behind it.
fn push_string<'s>(string: &'s str, map: &dyn Fn(&str) -> String, mapped: &mut String) -> &'s str {
    let Some(len) = string_len(string) else {
        mapped.push_str(string);
        return "";
    };
    let (quote, inner, rest) = (&string[..1], &string[1..len - 1], &string[len..]);
    mapped.push_str(quote);
    if inner.chars().all(|letter| letter.is_alphanumeric() || letter == '_') {
        mapped.push_str(inner);
    } else {
        push_pieces(inner, map, mapped);
    }
    mapped.push_str(quote);
    rest
}

fn push_pieces(mut inner: &str, map: &dyn Fn(&str) -> String, mapped: &mut String) {
    while let Some(at) = inner.find('\\') {
        let escaped = inner[at + 1..].chars().next().map_or(0, char::len_utf8);
        let (piece, rest) = inner.split_at(at);
        let (escape, rest) = rest.split_at(1 + escaped);
        mapped.push_str(&map(piece));
        mapped.push_str(escape);
        inner = rest;
    }
    mapped.push_str(&map(inner));
}

/// Bytes of the string that the text begins with, its quotes included.
fn string_len(text: &str) -> Option<usize> {
    let quote = text.chars().next()?;
    let mut is_escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if letter == quote => return Some(at + quote.len_utf8()),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_outside_of_tags_and_strings_inside_of_them() {
        for (source, expected) in [
            ("", ""),
            ("a { b } c", "A { B } C"),
            ("a{{ b }}c", "A{{ b }}C"),
            ("a{# b 'c d' {{ e }} #}f", "A{# b 'c d' {{ e }} #}F"),
            ("{{ a + 'b c' + \"d 'e'\" }}f", "{{ a + 'B C' + \"D 'E'\" }}F"),
            ("{%- if a == ' b %} c' -%} d {% endif %}", "{%- if a == ' B %} C' -%} D {% endif %}"),
            ("{{ {'a b': {'c d': e}}['a b'] }}f", "{{ {'A B': {'C D': e}}['A B'] }}F"),
            ("{{ '[a]\\n b\\'c d\\\\' }}e", "{{ '[A]\\n B\\'C D\\\\' }}E"),
            // Roles and keys.
            (
                "{{ m['content'] if m.role == \"user\" else 'a_1' }}",
                "{{ m['content'] if m.role == \"user\" else 'a_1' }}",
            ),
            ("{%- raw %}a {{ 'b' }} {% c %} {%- endraw -%}d", "{%- raw %}A {{ 'B' }} {% C %} {%- endraw -%}D"),
            ("{%raw%}a'{%endraw%}b'{{ c }}", "{%raw%}A'{%endraw%}B'{{ c }}"),
            // No templates.
            ("a{{ b 'c", "A{{ b 'c"),
            ("a{{ b 'c' }", "A{{ b 'c' }"),
            ("a{# b", "A{# b"),
            ("a{% raw %}b", "A{% raw %}B"),
            ("a{{ ' \\", "A{{ ' \\"),
            ("a{", "A{"),
        ] {
            assert_eq!(map_literals(source, &|text| text.to_uppercase()), expected);
            assert_eq!(map_literals(source, &|text| text.to_owned()), source);
        }
    }
}
