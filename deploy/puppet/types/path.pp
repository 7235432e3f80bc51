# @summary An absolute path.
type Picoseg::Path = Pattern[/\A\/[^\0\n]*\z/]
