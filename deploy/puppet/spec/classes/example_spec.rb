# frozen_string_literal: true

# examples/site.pp declares the class itself.
RSpec.describe 'picoseg', type: :class do
  let(:pre_condition) { File.read(File.expand_path('../../examples/site.pp', __dir__)) }
  let(:node) { 'nobody' }

  it { is_expected.to compile.with_all_deps }
  it { is_expected.to contain_picoseg__service('stripe') }
  it { is_expected.to contain_picoseg__service('old-gateway').with_ensure('decommissioned') }
end
