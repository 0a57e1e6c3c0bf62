//! The report of `ovl check` for people. Its last line is for a report of a bug.

use super::report::{Check, Report, Verdict};

/// The most characters of a line of names.
const WIDTH: usize = 76;

/// The report as a table.
pub(super) fn table(report: &Report) -> String {
    let Report { root, kernel, kernel_version, machine, mount_api, .. } = report;
    let mut text = format!("kernel  {kernel} {kernel_version} ({machine})");
    if let Some(api) = mount_api {
        text += &format!(", mount API {api}");
    }
    text += &format!(
        "\nsystem  {}\nstore   {}\n\n",
        report.distribution.as_deref().unwrap_or("unknown"),
        root.display()
    );
    let width = report.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    for (title, required) in [("required", true), ("optional", false)] {
        text += title;
        text += "\n";
        let checks = report.checks.iter().filter(|check| check.required == required && check.known);
        for check in checks {
            let Check { name, detail, .. } = check;
            text += format!("  {name:width$}  {:3}  {detail}", result(check)).trim_end();
            if let Some(fix) = &check.fix {
                text += &format!("\n  {:width$}       -> {fix}", "");
            }
            text += "\n";
        }
    }
    text += &unknown(report);
    text + "\n" + &last_line(report) + "\n"
}

fn result(check: &Check) -> &'static str {
    match (check.ok, check.ignored) {
        (true, _) if check.off => "off",
        (true, _) => "yes",
        (false, true) => "no, ignored",
        (false, false) => "no",
    }
}

/// The names of what only root can find out.
fn unknown(report: &Report) -> String {
    let mut names = report.checks.iter().filter(|check| !check.known).peekable();
    if names.peek().is_none() {
        return String::new();
    }
    let (mut text, mut line) = ("only root can find out\n".to_owned(), String::new());
    for check in names {
        if line.len() + check.name.len() > WIDTH {
            text += &format!("  {}\n", line.trim_end());
            line.clear();
        }
        line += &format!("{}, ", check.name);
    }
    text + &format!("  {}\n", line.trim_end_matches(", "))
}

/// The verdict, the kernel, the distribution and the file system.
pub(super) fn last_line(report: &Report) -> String {
    let verdict = match report.verdict {
        Verdict::Usable => "usable",
        Verdict::NotUsable => "not usable",
        Verdict::Unknown => "unknown without root",
    };
    let Report { kernel, kernel_version, machine, .. } = report;
    format!(
        "{verdict}: ovl {}, Linux {kernel} {kernel_version} {machine}, {}, {}",
        env!("CARGO_PKG_VERSION"),
        report.distribution.as_deref().unwrap_or("unknown distribution"),
        report.file_system
    )
}
