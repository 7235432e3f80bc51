# @summary The units. They do not depend on schedules: a bad one keeps no daemon from running.
#
# @api private
class picoseg::daemon {
  if $picoseg::service_manage {
    service { 'picosegd':
      ensure => $picoseg::service_ensure,
      enable => $picoseg::service_enable,
    }

    # Before the network is up, and what subjects that are programs need. The daemon starts the second one.
    service { ['picoseg-early', 'picoseg-exec']:
      enable => $picoseg::service_enable,
    }
  }
}
