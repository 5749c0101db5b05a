//! `crash-writer DIR LOG SEED`: random operations in DIR until the file system below fails, each
//! logged in LOG (which must lie elsewhere). See `t3fs_ops::crash` for what is done with the log.

use std::path::Path;
use std::process::ExitCode;

use t3fs_ops::crash::writer::Writer;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, log, seed] = args.as_slice() else {
        eprintln!("usage: crash-writer DIR LOG SEED");
        return ExitCode::from(2);
    };
    let Ok(seed) = seed.parse() else {
        eprintln!("crash-writer: {seed} is not a number");
        return ExitCode::from(2);
    };
    let mut writer = match Writer::new(Path::new(dir), Path::new(log), seed) {
        Ok(writer) => writer,
        Err(err) => {
            eprintln!("crash-writer: {log}: {err}");
            return ExitCode::from(2);
        }
    };
    loop {
        // The crash that we are here for; whoever started us knows whether it was time for it.
        if let Err(err) = writer.step() {
            eprintln!("crash-writer: ends: {err}");
            return ExitCode::SUCCESS;
        }
    }
}
