# @summary One file of picoseg, judged before it replaces the one that is there.
#
# @param kind
#   What it is judged as.
# @param content
#   The text; without one the file is removed.
#
# @api private
define picoseg::file (
  Enum['service', 'segment', 'list'] $kind,
  Optional[String[1]] $content = undef,
) {
  $ensure = $content ? {
    Undef   => absent,
    default => file,
  }

  # Puppet writes a temporary copy beside the file, with a name that the daemon ignores.
  file { $name:
    ensure       => $ensure,
    owner        => 'root',
    group        => 'root',
    mode         => '0644',
    content      => $content,
    validate_cmd => "/usr/bin/picoseg check --as ${kind} %",
  }
}
