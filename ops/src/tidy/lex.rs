//! Just enough of Rust's lexical structure for source checks: tokens without comments and literals,
//! the paths (`a::b::c`) that the tokens spell, `use` groups expanded, and, for who asks for them,
//! string literals.
//!
//! It promises lines that fit the file, that nothing inside a comment is ever reported, and nothing
//! inside a string or character literal as code. It does not resolve names: `use std as s; s::fs`
//! goes unseen, which a reviewer sees.

use std::ops::Range;

/// One identifier or one punctuation mark (`::` counts as one).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub text: String,
    /// Counted from 1.
    pub line: usize,
}

impl Token {
    fn is_ident(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
    }
}

/// A path as written, with `use a::{b, c::d}` spelled out as `a::b` and `a::c::d`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodePath {
    pub segments: Vec<String>,
    /// Line of the last segment.
    pub line: usize,
    /// Came from a `use` item, where a path of a single segment names a crate or a module.
    pub in_use: bool,
    /// The name behind `as`.
    pub alias: Option<String>,
    /// Ends with `::*`.
    pub glob: bool,
}

impl CodePath {
    fn begin(segments: Vec<String>, line: usize, in_use: bool) -> CodePath {
        CodePath { segments, line, in_use, alias: None, glob: false }
    }

    /// True if the path begins with these segments.
    pub fn begins(&self, prefix: &[&str]) -> bool {
        self.segments.len() >= prefix.len()
            && self.segments.iter().zip(prefix).all(|(have, want)| have == want)
    }

    /// True if the path names something inside the crate `name` (or, in a `use`, the crate itself).
    pub fn names_crate(&self, name: &str) -> bool {
        self.segments[0] == name && (self.in_use || self.segments.len() > 1)
    }
}

/// Splits source text into tokens; comments and literals are dropped.
pub fn tokens(text: &str) -> Vec<Token> {
    scan(text, |_| {})
}

/// What stands between the quotation marks of each string literal, escapes as written, with the
/// line that it begins in.
pub fn strings(text: &str) -> Vec<Token> {
    let mut strings = Vec::new();
    scan(text, |string| strings.push(string));
    strings
}

fn scan(text: &str, mut string: impl FnMut(Token)) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut at = 0;
    while at < chars.len() {
        let next = chars.get(at + 1).copied();
        let end = match chars[at] {
            '/' if next == Some('/') => end_of_line(&chars, at),
            '/' if next == Some('*') => end_of_block_comment(&chars, at),
            '"' => {
                let end = end_of_string(&chars, at);
                string(Token { text: between_quotes(&chars[at..end]).unwrap_or_default(), line });
                end
            }
            '\'' => end_of_quote(&chars, at),
            c if c.is_alphabetic() || c == '_' => match raw_or_prefixed_literal(&chars, at) {
                Some(end) => {
                    let found = between_quotes(&chars[at..end]);
                    found.into_iter().for_each(|text| string(Token { text, line }));
                    end
                }
                None => {
                    let start = if is_raw_ident(&chars, at) { at + 2 } else { at };
                    let end = end_of_word(&chars, start);
                    tokens.push(Token { text: chars[start..end].iter().collect(), line });
                    end
                }
            },
            c if c.is_ascii_digit() => end_of_word(&chars, at),
            c if c.is_whitespace() => at + 1,
            ':' if next == Some(':') => {
                tokens.push(Token { text: "::".into(), line });
                at + 2
            }
            c => {
                tokens.push(Token { text: c.into(), line });
                at + 1
            }
        };
        line += chars[at..end].iter().filter(|&&c| c == '\n').count();
        at = end;
    }
    tokens
}

/// The content of a string literal with all that belongs to it; none for a byte.
fn between_quotes(literal: &[char]) -> Option<String> {
    let open = literal.iter().position(|&c| c == '"')?;
    let close = literal.iter().rposition(|&c| c == '"').filter(|close| *close > open)?;
    Some(literal[open + 1..close].iter().collect())
}

/// The items behind `#[cfg(test)]`, attribute included, as places in `tokens`.
pub fn test_items(tokens: &[Token]) -> Vec<Range<usize>> {
    const ATTRIBUTE: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut items = Vec::new();
    let mut at = 0;
    while at + ATTRIBUTE.len() <= tokens.len() {
        let behind = at + ATTRIBUTE.len();
        if !tokens[at..behind].iter().map(|token| &token.text).eq(ATTRIBUTE) {
            at += 1;
            continue;
        }
        let end = end_of_item(tokens, behind);
        items.push(at..end);
        at = end;
    }
    items
}

/// The first token behind the item that begins at `at`.
pub fn end_of_item(tokens: &[Token], mut at: usize) -> usize {
    let is_use = tokens[at..].iter().take(6).any(|token| token.text == "use");
    let mut depth = 0;
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            "{" | "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            "}" => {
                depth -= 1;
                if depth < 0 {
                    return at; // the last field or arm of something
                }
                if depth == 0 && !is_use {
                    return at + 1;
                }
            }
            ";" if depth == 0 => return at + 1,
            _ => {}
        }
        at += 1;
    }
    at
}

fn end_of_line(chars: &[char], at: usize) -> usize {
    chars[at..].iter().position(|&c| c == '\n').map_or(chars.len(), |n| at + n)
}

fn end_of_block_comment(chars: &[char], at: usize) -> usize {
    let mut depth = 0;
    let mut i = at;
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    chars.len()
}

/// `at` is the opening quote mark of a string that knows escapes.
fn end_of_string(chars: &[char], at: usize) -> usize {
    let mut i = at + 1;
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

/// `at` is a single quote mark: a character literal, or a lifetime.
fn end_of_quote(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), _) => {
            // The escaped character itself may be a quote mark.
            let rest = &chars[(at + 3).min(chars.len())..];
            rest.iter().position(|&c| c == '\'').map_or(chars.len(), |n| at + 3 + n + 1)
        }
        (Some(_), Some('\'')) => at + 3,
        _ => end_of_word(chars, at + 1).max(at + 1),
    }
}

fn end_of_word(chars: &[char], at: usize) -> usize {
    let word = chars[at..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').count();
    at + word
}

fn is_raw_ident(chars: &[char], at: usize) -> bool {
    chars[at] == 'r'
        && chars.get(at + 1) == Some(&'#')
        && chars.get(at + 2).is_some_and(|c| c.is_alphabetic() || *c == '_')
}

/// If a literal with a prefix begins at `at` (`r"`, `r#"`, `b"`, `b'`, `c"`, `br#"`), where it
/// ends.
fn raw_or_prefixed_literal(chars: &[char], at: usize) -> Option<usize> {
    let word_end = end_of_word(chars, at);
    let prefix: String = chars[at..word_end].iter().collect();
    let raw = match prefix.as_str() {
        "b" | "c" => false,
        "r" | "br" | "cr" => true,
        _ => return None,
    };
    if !raw {
        return match chars.get(word_end) {
            Some('"') => Some(end_of_string(chars, word_end)),
            Some('\'') if prefix == "b" => Some(end_of_quote(chars, word_end)),
            _ => None,
        };
    }
    let hashes = chars[word_end..].iter().take_while(|&&c| c == '#').count();
    if chars.get(word_end + hashes) != Some(&'"') {
        return None;
    }
    let mut closing = vec!['"'];
    closing.resize(hashes + 1, '#');
    let body = word_end + hashes + 1;
    let length = chars[body..].windows(closing.len()).position(|w| w == closing);
    Some(length.map_or(chars.len(), |n| body + n + closing.len()))
}

/// Every path that the tokens spell, in order.
pub fn paths(tokens: &[Token]) -> Vec<CodePath> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at].text == "use" {
            at = use_tree(tokens, at + 1, &[], &mut found);
        } else if tokens[at].is_ident() {
            let mut path = CodePath::begin(Vec::new(), tokens[at].line, false);
            at = plain_path(tokens, at, &mut path);
            found.push(path);
        } else {
            at += 1;
        }
    }
    found
}

/// Reads `a::b::c` from `at` on into `path`; returns the first token that is not part of it.
fn plain_path(tokens: &[Token], mut at: usize, path: &mut CodePath) -> usize {
    while at < tokens.len() && tokens[at].is_ident() {
        path.segments.push(tokens[at].text.clone());
        path.line = tokens[at].line;
        at += 1;
        let goes_on = tokens.get(at).is_some_and(|t| t.text == "::")
            && tokens.get(at + 1).is_some_and(Token::is_ident);
        if !goes_on {
            break;
        }
        at += 1;
    }
    at
}

/// Reads one tree of a `use` item that continues `prefix`; returns the first token behind it.
fn use_tree(tokens: &[Token], at: usize, prefix: &[String], found: &mut Vec<CodePath>) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |t| t.text.as_str());
    let mut at = if text(at) == "::" { at + 1 } else { at };
    let line = tokens.get(at).map_or(1, |t| t.line);
    let mut path = CodePath::begin(prefix.to_vec(), line, true);
    at = plain_path(tokens, at, &mut path);
    if text(at) == "::" {
        at += 1;
    }
    match text(at) {
        "{" => {
            at += 1;
            while at < tokens.len() && text(at) != "}" {
                let before = at;
                at = use_tree(tokens, at, &path.segments, found);
                if text(at) == "," || at == before {
                    at += 1;
                }
            }
            return at + 1;
        }
        "*" => {
            path.glob = true;
            at += 1;
        }
        _ => {}
    }
    if text(at) == "as" {
        path.alias = Some(text(at + 1).to_owned());
        at += 2;
    }
    if !path.segments.is_empty() {
        found.push(path);
    }
    at
}

#[cfg(test)]
mod tests {
    //! Goal: rules see code and only code. Method: samples with each kind of literal and comment.
    use super::*;

    fn words(text: &str) -> Vec<String> {
        tokens(text).into_iter().map(|t| t.text).collect()
    }

    fn spelled(text: &str) -> Vec<String> {
        paths(&tokens(text)).into_iter().map(|p| p.segments.join("::")).collect()
    }

    #[test]
    fn comments_and_literals_are_dropped() {
        let text = "a // x\n/* y /* z */ */ b \"c \\\" d\" r#\"e \" f\"# b\"g\" 'h' '\\'' b'i' k";
        assert_eq!(words(text), ["a", "b", "k"]);
    }

    #[test]
    fn strings_are_found_with_their_lines() {
        let text = "a \"b \\\" c\" // \"no\"\n'\"' b'\"' r#\"d \" e\"# b\"f\"\n\"\"";
        let found: Vec<(String, usize)> =
            strings(text).into_iter().map(|string| (string.text, string.line)).collect();
        let found: Vec<(&str, usize)> = found.iter().map(|(t, line)| (t.as_str(), *line)).collect();
        assert_eq!(found, [("b \\\" c", 1), ("d \" e", 2), ("f", 2), ("", 3)]);
    }

    #[test]
    fn items_for_tests_are_found() {
        let found = |text: &str| {
            let tokens = tokens(text);
            let items = test_items(&tokens).into_iter();
            items.map(|item| tokens[item].last().unwrap().line).collect::<Vec<_>>()
        };
        assert_eq!(found("fn a() {}\n#[cfg(test)]\nmod t {\n}\nfn b() {}"), [4]);
        assert_eq!(found("#[cfg(test)]\nuse a::{b};\n#[cfg(test)] mod t;"), [2, 3]);
    }

    #[test]
    fn lifetimes_numbers_and_raw_identifiers_are_told_apart() {
        assert_eq!(words("&'a str 1_000u64 r#type"), ["&", "str", "type"]);
    }

    #[test]
    fn lines_count_through_multi_line_literals() {
        let found = tokens("\"a\nb\"\n/*\n*/ c");
        assert_eq!(found, [Token { text: "c".into(), line: 4 }]);
    }

    #[test]
    fn use_groups_are_expanded() {
        let text = "use std::{time::{Duration, Instant as I}, fs, io::*};\nlet x = core::time::D;";
        let want = ["std::time::Duration", "std::time::Instant", "std::fs", "std::io", "let", "x"];
        assert_eq!(spelled(text)[..6], want);
        assert_eq!(spelled(text)[6], "core::time::D");
    }
}
