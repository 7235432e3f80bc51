# @summary A list of endpoints, to which schedules and segments refer as `@NAME`.
#
# @example The addresses that a provider publishes
#   picoseg::list { 'stripe-api':
#     entries => ['198.51.100.0/24', '2001:db8::/64'],
#   }
#
# @param ensure
#   `absent` removes the file. What refers to a list that is not there is an error.
# @param entries
#   Addresses, prefixes and host names. Required unless absent, and not empty: a list that lost its entries by mistake would close
#   what refers to it.
define picoseg::list (
  Enum['present', 'absent'] $ensure              = 'present',
  Optional[Array[Picoseg::Endpoint, 1]] $entries = undef,
) {
  include picoseg

  assert_type(Picoseg::Listname, $name)

  if $ensure == 'present' {
    if $entries =~ Undef {
      fail("Picoseg::List[${name}]: missing: entries")
    }
    $content = epp('picoseg/list.txt.epp', { 'entries' => $entries })
  } else {
    $content = undef
  }

  picoseg::file { "${picoseg::lists_directory}/${name}.txt":
    kind    => 'list',
    content => $content,
    require => Class['picoseg::config'],
    before  => Class['picoseg::lists', 'picoseg::in_force'],
  }
}
