//! What is measured: jobs, the rows each one fills, and the targets that the project has set
//! itself.

use std::fmt;

/// What a client does inside one folder. A job runs as one process and may fill several rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    SequentialWrite {
        direct: bool,
    },
    SequentialRead {
        direct: bool,
    },
    RandomRead {
        direct: bool,
        threads: usize,
    },
    RandomWrite {
        direct: bool,
        threads: usize,
    },
    /// create, stat, readdir, rename, unlink of empty files, in this order.
    Names {
        threads: usize,
    },
    /// 4 KiB files: written and closed, then read.
    SmallFiles {
        threads: usize,
    },
}

/// In the order of the table.
pub const JOBS: [Job; 16] = [
    Job::SequentialWrite { direct: true },
    Job::SequentialWrite { direct: false },
    Job::SequentialRead { direct: true },
    Job::SequentialRead { direct: false },
    Job::RandomRead { direct: true, threads: 1 },
    Job::RandomRead { direct: true, threads: 16 },
    Job::RandomRead { direct: false, threads: 1 },
    Job::RandomRead { direct: false, threads: 16 },
    Job::RandomWrite { direct: true, threads: 1 },
    Job::RandomWrite { direct: true, threads: 16 },
    Job::RandomWrite { direct: false, threads: 1 },
    Job::RandomWrite { direct: false, threads: 16 },
    Job::Names { threads: 1 },
    Job::Names { threads: 16 },
    Job::SmallFiles { threads: 1 },
    Job::SmallFiles { threads: 16 },
];

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = |direct: &bool| if *direct { "direct" } else { "buffered" };
        match self {
            Job::SequentialWrite { direct } => write!(f, "seq-write-{}", path(direct)),
            Job::SequentialRead { direct } => write!(f, "seq-read-{}", path(direct)),
            Job::RandomRead { direct, threads } => {
                write!(f, "rand-read-{}-{threads}", path(direct))
            }
            Job::RandomWrite { direct, threads } => {
                write!(f, "rand-write-{}-{threads}", path(direct))
            }
            Job::Names { threads } => write!(f, "names-{threads}"),
            Job::SmallFiles { threads } => write!(f, "small-{threads}"),
        }
    }
}

impl Job {
    pub fn by_name(name: &str) -> Option<Job> {
        JOBS.into_iter().find(|job| job.to_string() == name)
    }

    /// The rows that this job fills, in the order of its phases.
    pub fn rows(&self) -> Vec<Row> {
        let bytes = |name: String| Row { name, unit: Unit::MegabytesPerSecond };
        let operations = |name: String| Row { name, unit: Unit::OperationsPerSecond };
        let phases = |names: &[&str], threads: &usize| {
            names.iter().map(|name| operations(format!("{name}-{threads}"))).collect()
        };
        match self {
            Job::SequentialWrite { .. } | Job::SequentialRead { .. } => {
                vec![bytes(self.to_string())]
            }
            Job::RandomRead { .. } | Job::RandomWrite { .. } => {
                vec![operations(self.to_string())]
            }
            Job::Names { threads } => {
                phases(&["create", "stat", "readdir", "rename", "unlink"], threads)
            }
            Job::SmallFiles { threads } => phases(&["small-write", "small-read"], threads),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    MegabytesPerSecond,
    OperationsPerSecond,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub name: String,
    pub unit: Unit,
}

/// What a target is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    Folder,
    Nullfs,
}

/// t3fs shall reach this part of the rate beside it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    pub beside: Beside,
    pub ratio: f64,
}

const TARGETS: [(&str, Beside, f64); 5] = [
    ("seq-write-direct", Beside::Folder, 0.5),
    ("seq-read-direct", Beside::Folder, 0.7),
    ("rand-read-direct-16", Beside::Folder, 0.4),
    ("create-16", Beside::Nullfs, 0.3),
    ("stat-16", Beside::Nullfs, 0.3),
];

impl Row {
    pub fn target(&self) -> Option<Target> {
        let (_, beside, ratio) = TARGETS.into_iter().find(|(name, ..)| *name == self.name)?;
        Some(Target { beside, ratio })
    }

    /// Chosen by a word on the command line: `create` means `create-1` and `create-16`.
    pub fn is_chosen_by(&self, word: &str) -> bool {
        let rest = self.name.strip_prefix(word);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }
}

#[cfg(test)]
mod tests {
    //! Goal: names are unique, lead back to their job, and every target has its row.
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn jobs_are_found_by_their_names() {
        for job in JOBS {
            assert_eq!(Job::by_name(&job.to_string()), Some(job));
        }
    }

    #[test]
    fn rows_are_unique_and_every_target_has_one() {
        let rows: Vec<Row> = JOBS.iter().flat_map(Job::rows).collect();
        let names: BTreeSet<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names.len(), rows.len());
        for (name, ..) in TARGETS {
            assert!(names.contains(name), "{name}");
        }
    }

    #[test]
    fn a_word_chooses_whole_parts_of_a_name() {
        let row = Row { name: "rand-read-direct-16".into(), unit: Unit::OperationsPerSecond };
        assert!(row.is_chosen_by("rand-read") && row.is_chosen_by("rand-read-direct-16"));
        assert!(!row.is_chosen_by("rand-read-direct-1") && !row.is_chosen_by("seq"));
    }
}
