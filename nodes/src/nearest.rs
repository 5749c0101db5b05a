//! Which word somebody meant who has mistyped one.

/// The word with the smallest edit distance (Levenshtein 1966) to a wrong one, and that distance.
pub fn nearest<'a>(wrong: &str, words: impl Iterator<Item = &'a str>) -> (&'a str, usize) {
    let wrong: Vec<char> = wrong.to_lowercase().chars().collect();
    let distances = words.map(|word| (word, distance(&wrong, word)));
    distances.min_by_key(|(_, distance)| *distance).expect("there are words")
}

fn distance(wrong: &[char], to: &str) -> usize {
    let mut row: Vec<usize> = (0..=wrong.len()).collect();
    for (i, c) in to.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, w) in wrong.iter().enumerate() {
            let change = diagonal + usize::from(c != *w);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[wrong.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_the_one_with_the_fewest_changes() {
        let words = ["error", "warn", "info", "debug"];
        for (wrong, meant) in [
            ("inf", ("info", 1)),
            ("DEBG", ("debug", 1)),
            ("warning", ("warn", 3)),
            ("info", ("info", 0)),
        ] {
            assert_eq!(nearest(wrong, words.into_iter()), meant);
        }
    }
}
