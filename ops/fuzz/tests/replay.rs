//! Goal: what a fuzzer has found stays found. Method: every kept input goes to its target again.
//! One test, because targets count the memory of the process.

use std::fs;
use std::path::Path;

use t3fs_fuzz::TARGETS;

#[test]
fn kept_inputs_still_pass() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for target in &TARGETS {
        for seed in (target.seeds)() {
            (target.run)(&seed);
        }
        let folder = corpus.join(target.name);
        let kept = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut count = 0;
        for input in kept {
            let path = input.expect("readable").path();
            println!("{}", path.display()); // shown when it fails
            (target.run)(&fs::read(&path).expect("readable"));
            count += 1;
        }
        assert!(count > 0, "nothing is kept in {}", folder.display());
    }
}
