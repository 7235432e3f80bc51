# @summary A default-deny segment around one subject.
#
# Whatever goes to or from the subject is refused, unless `allow` lists it or a service grants it. The parameters are the keys of
# the file, which `picoseg check` judges before it is replaced.
#
# @example A unit that reaches its database and nothing else
#   picoseg::segment { 'payments':
#     subject => { 'unit' => 'payments.service' },
#     allow   => [{ 'direction' => 'egress', 'to' => ['10.0.0.0/8'], 'ports' => ['5432/tcp'] }],
#   }
#
# @param ensure
#   `absent` removes the segment, and its subject is free again. A segment has no states: `decommissioned` is the same.
# @param subject
#   What is enclosed. Required unless absent.
# @param mode
#   `observe` refuses nothing and records everything, for this segment only.
# @param loopback
#   Whether traffic on `lo` is allowed; by default it is.
# @param dns
#   Whether the resolvers of `/etc/resolv.conf` are allowed; by default they are.
# @param allow
#   What else is allowed.
define picoseg::segment (
  Enum['present', 'absent', 'decommissioned'] $ensure = 'present',
  Optional[Picoseg::Subject] $subject                 = undef,
  Optional[Enum['enforce', 'observe']] $mode          = undef,
  Optional[Boolean] $loopback                         = undef,
  Optional[Boolean] $dns                              = undef,
  Array[Picoseg::Allow] $allow                        = [],
) {
  include picoseg

  assert_type(Picoseg::Name, $name)

  if $ensure == 'present' {
    if $subject =~ Undef {
      fail("Picoseg::Segment[${name}]: missing: subject")
    }
    $content = epp('picoseg/segment.toml.epp', {
        'subject'  => $subject,
        'mode'     => $mode,
        'loopback' => $loopback,
        'dns'      => $dns,
        'allow'    => $allow,
    })
  } else {
    $content = undef
  }

  picoseg::file { "${picoseg::segments_directory}/${name}.toml":
    kind    => 'segment',
    content => $content,
    require => Class['picoseg::lists'],
    before  => Class['picoseg::in_force'],
  }
}
