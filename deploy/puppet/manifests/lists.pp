# @summary Nothing by itself: lists come before it, and schedules and segments, which are judged together with them, after it.
#
# @api private
class picoseg::lists {
}
