# @summary A SHA-256 digest as `sha256sum` prints it.
type Picoseg::Sha256 = Pattern[/\A[0-9A-Fa-f]{64}\z/]
