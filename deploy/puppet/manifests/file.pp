# @summary One file of picoseg, judged before it replaces the one that is there.
#
# @param content
#   The text; without one the file is removed.
#
# @api private
define picoseg::file (
  Optional[String[1]] $content = undef,
) {
  $ensure = $content ? {
    Undef   => absent,
    default => file,
  }

  # Puppet writes a temporary copy beside the file, with a name that the daemon ignores: its directory says what it is.
  file { $name:
    ensure       => $ensure,
    owner        => 'root',
    group        => 'root',
    mode         => '0644',
    content      => $content,
    validate_cmd => '/usr/bin/picoseg check %',
  }
}
