# @summary The commissioning schedule of one third-party service.
#
# The parameters are the keys of the file. Times and ports are judged by `picoseg check` before the file is replaced: where it
# finds a mistake, the run fails, and the file and what is in force stay as they are.
#
# To end a provider's access, say `ensure => decommissioned`: its connections are cut, the provider stays refused, and its
# attempts are counted under its name. A decommission is final for that lifetime: a service comes back only with a later
# `commission`.
#
# @example A payment provider in office hours
#   picoseg::service { 'stripe':
#     provider => 'Stripe, Inc.',
#     owner    => 'payments@example.com',
#     lifetime => {
#       'commission'   => '2026-01-01T00:00:00Z',
#       'decommission' => '2026-12-31T00:00:00Z',
#     },
#     window   => [{ 'cron' => '0 9 * * Mon-Fri', 'duration' => '9h', 'timezone' => 'Europe/Berlin' }],
#     egress   => [{
#       'subject' => { 'unit' => 'payments.service' },
#       'to'      => ['198.51.100.0/24', 'api.stripe.com'],
#       'ports'   => ['443/tcp'],
#       'tls'     => 'required',
#     }],
#   }
#
# @param ensure
#   `present`: as `state` says. `decommissioned`: it is over, and the file stays as its record. `absent`: the file is removed,
#   which decommissions it as well.
# @param provider
#   The third party. Required unless absent.
# @param owner
#   Who answers for it. Required unless absent.
# @param description
#   What it is for.
# @param ticket
#   A reference.
# @param compliance
#   What it has to do with audits.
# @param mode
#   `observe` refuses nothing and records everything, for this service only.
# @param state
#   `suspended` closes it for now. With `ensure => decommissioned` it is ignored.
# @param lifetime
#   From when until when it can be open at all. Required unless absent.
# @param window
#   When it is open; none: for its whole lifetime.
# @param except
#   When it is closed although a window says open.
# @param egress
#   Which local processes connect to the provider. A service has at least one policy, of either direction.
# @param ingress
#   To which local processes the provider connects.
# @param teardown
#   How long the decommissioned provider stays refused and watched; by default for ever.
define picoseg::service (
  Enum['present', 'absent', 'decommissioned'] $ensure                       = 'present',
  Optional[String[1]] $provider                                             = undef,
  Optional[String[1]] $owner                                                = undef,
  Optional[String[1]] $description                                          = undef,
  Optional[String[1]] $ticket                                               = undef,
  Optional[Array[String[1]]] $compliance                                    = undef,
  Optional[Enum['enforce', 'observe']] $mode                                = undef,
  Optional[Enum['commissioned', 'suspended', 'decommissioned']] $state      = undef,
  Optional[Picoseg::Lifetime] $lifetime                                     = undef,
  Array[Picoseg::Window] $window                                            = [],
  Array[Picoseg::Except] $except                                            = [],
  Array[Picoseg::Egress] $egress                                            = [],
  Array[Picoseg::Ingress] $ingress                                          = [],
  Optional[Picoseg::Teardown] $teardown                                     = undef,
) {
  include picoseg

  assert_type(Picoseg::Name, $name)

  if $ensure == 'absent' {
    $content = undef
  } else {
    $required = { 'provider' => $provider, 'owner' => $owner, 'lifetime' => $lifetime }
    $missing = $required.filter |$_, $value| { $value =~ Undef }
    unless $missing.empty {
      fail("Picoseg::Service[${name}]: missing: ${missing.keys.join(', ')}")
    }
    if $egress.empty and $ingress.empty {
      fail("Picoseg::Service[${name}]: it needs an egress or an ingress policy")
    }
    $content = epp('picoseg/service.toml.epp', {
        'provider'    => $provider,
        'owner'       => $owner,
        'description' => $description,
        'ticket'      => $ticket,
        'compliance'  => $compliance,
        'mode'        => $mode,
        'state'       => $ensure ? { 'decommissioned' => 'decommissioned', default => $state },
        'lifetime'    => $lifetime,
        'window'      => $window,
        'except'      => $except,
        'egress'      => $egress,
        'ingress'     => $ingress,
        'teardown'    => $teardown,
    })
  }

  picoseg::file { "${picoseg::services_directory}/${name}.toml":
    kind    => 'service',
    content => $content,
    require => Class['picoseg::lists'],
    before  => Class['picoseg::in_force'],
  }
}
