//! Breaks comment lines that are too wide, which stable rustfmt does not.
//!
//! Only a paragraph that has such a line is touched. Lists keep their hanging indent; headings,
//! tables, code between fences and words longer than a line stay as they are.

use super::source_rules::COLUMNS_MAX;

/// The text with wide comments broken; `None` if there is nothing to do.
pub fn reflow(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut output: Vec<String> = Vec::new();
    let mut in_fence = false;
    let mut at = 0;
    while at < lines.len() {
        let Some(first) = Comment::parse(lines[at]) else {
            output.push(lines[at].to_owned());
            at += 1;
            continue;
        };
        if first.words.starts_with("```") {
            in_fence = !in_fence;
        }
        let mut end = at + 1;
        if !in_fence && first.is_prose() {
            while let Some(next) = lines.get(end).and_then(|line| Comment::parse(line))
                && next.prefix == first.prefix
                && next.is_prose()
            {
                end += 1;
            }
        }
        let paragraph = &lines[at..end];
        let is_wide = |line: &&str| line.chars().count() > COLUMNS_MAX;
        if in_fence || !first.may_break() || !paragraph.iter().any(is_wide) {
            output.extend(paragraph.iter().map(|line| line.to_string()));
        } else {
            first.wrap(paragraph, &mut output);
        }
        at = end;
    }
    let mut reflowed = output.join("\n");
    if text.ends_with('\n') {
        reflowed.push('\n');
    }
    (reflowed != text).then_some(reflowed)
}

/// A line that is nothing but a comment.
struct Comment<'a> {
    /// Indent and marker, with the space behind it.
    prefix: &'a str,
    words: &'a str,
}

impl<'a> Comment<'a> {
    fn parse(line: &'a str) -> Option<Comment<'a>> {
        let marker = line.len() - line.trim_start().len();
        let slashes =
            ["//! ", "/// ", "// "].into_iter().find(|m| line[marker..].starts_with(m))?;
        let (prefix, words) = line.split_at(marker + slashes.len());
        // Further indent means code, or the inside of a list.
        words.starts_with(|c: char| !c.is_whitespace()).then_some(Comment { prefix, words })
    }

    fn is_list_item(&self) -> bool {
        let number = self.words.trim_start_matches(|c: char| c.is_ascii_digit());
        let numbered = number.len() < self.words.len() && number.starts_with(". ");
        self.words.starts_with("- ") || self.words.starts_with("* ") || numbered
    }

    /// Headings, tables, fences and link targets mean something as lines.
    fn may_break(&self) -> bool {
        !self.words.starts_with(['#', '|', '`', '['])
            || (self.words.starts_with('`') && !self.words.starts_with("```"))
            || (self.words.starts_with('[') && !self.words.contains("]: "))
    }

    /// True if this line and those beside it may be one paragraph.
    fn is_prose(&self) -> bool {
        self.may_break() && !self.is_list_item()
    }

    /// Writes the paragraph that begins with this line, in lines that are not too wide.
    fn wrap(&self, paragraph: &[&str], output: &mut Vec<String>) {
        let indent = if self.is_list_item() { "  " } else { "" };
        let mut line = self.prefix.to_owned();
        let mut width = line.chars().count();
        let mut is_empty = true;
        let texts = paragraph.iter().filter_map(|line| Comment::parse(line));
        for word in texts.flat_map(|comment| comment.words.split_whitespace()) {
            let length = word.chars().count();
            if !is_empty && width + 1 + length > COLUMNS_MAX {
                output.push(line);
                line = format!("{}{indent}", self.prefix);
                width = line.chars().count();
                is_empty = true;
            }
            if !is_empty {
                line.push(' ');
                width += 1;
            }
            line.push_str(word);
            width += length;
            is_empty = false;
        }
        output.push(line);
    }
}

#[cfg(test)]
mod tests {
    //! Goal: wide prose is broken and everything else left alone. Method: samples of each.
    use super::*;

    fn words(count: usize) -> String {
        vec!["word"; count].join(" ")
    }

    #[test]
    fn a_wide_paragraph_is_filled_anew() {
        let text = format!("    /// {}\n    /// end.\n    fn f() {{}}\n", words(20));
        let want = format!("    /// {}\n    /// word word end.\n    fn f() {{}}\n", words(18));
        assert_eq!(reflow(&text), Some(want));
    }

    #[test]
    fn paragraphs_that_fit_are_left_alone() {
        let text = format!("//! Short.\n//! {}\n//!\n//! ```\n//! x\n", words(18));
        assert_eq!(reflow(&text), None);
    }

    #[test]
    fn a_list_item_gets_a_hanging_indent() {
        let text = format!("// - {}\n// - next\n", words(20));
        let want = format!("// - {}\n//   word\n// - next\n", words(19));
        assert_eq!(reflow(&text), Some(want));
    }

    #[test]
    fn code_tables_and_headings_stay() {
        let wide = words(30);
        for text in [
            format!("/// ```\n/// {wide}\n/// ```\n"),
            format!("/// | {wide} |\n"),
            format!("/// # {wide}\n"),
            format!("let x = \"{wide}\";\n"),
            format!("//     {wide}\n"),
        ] {
            assert_eq!(reflow(&text), None, "{text}");
        }
    }
}
