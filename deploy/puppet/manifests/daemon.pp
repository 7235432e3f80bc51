# @summary The units, and what is in force.
#
# @api private
class picoseg::daemon {
  if $picoseg::service_manage {
    service { 'picosegd':
      ensure => $picoseg::service_ensure,
      enable => $picoseg::service_enable,
    }
  }

  if $picoseg::service_manage and $picoseg::service_ensure == 'running' {
    # Not a refresh of the service: what is in force may differ from files that Puppet finds as it left them, when somebody
    # applied others, or when a change could not be applied at the last run. What a person ordered (suspend, decommission,
    # extend) is no difference.
    exec { 'picoseg apply':
      command   => file('picoseg/apply.sh'),
      unless    => 'picoseg plan --exit-code',
      path      => ['/usr/bin', '/bin'],
      provider  => 'shell',
      logoutput => 'on_failure',
      require   => Service['picosegd'],
    }
  }
}
