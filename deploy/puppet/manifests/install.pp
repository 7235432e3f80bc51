# @summary The package.
#
# @api private
class picoseg::install {
  if $picoseg::package_manage {
    package { $picoseg::package_name:
      ensure   => $picoseg::package_ensure,
      source   => $picoseg::package_source,
      provider => $picoseg::package_provider,
    }
  }
}
