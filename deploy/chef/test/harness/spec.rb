# frozen_string_literal: true

require_relative '../harness'
require 'rspec'

# DSL harness, not Chef: the part of ChefSpec's language that the cookbook's specs use. Nothing is done to the host: resources
# are recorded with the actions they would take, and those of the cookbook are stepped into where the spec says so.
module Harness
  COOKBOOK = File.expand_path('../../picoseg', __dir__)

  # A run that records.
  class SpecRun < Run
    attr_reader :performed

    def initialize(attributes, step_into)
      @step_into = step_into
      @performed = []
      super(COOKBOOK, attributes: attributes, why_run: true, out: StringIO.new)
    end

    def record(block)
      root = root_context
      RecipeBody.new(root).instance_exec(&block)
      root.resources.each { |resource| act(resource) }
      self
    end

    def act(resource, *actions)
      (actions.empty? ? resource.actions : actions).each do |action|
        next if action == :nothing

        resource.validate(action)
        @performed << [resource, action]
        act_custom(resource, action) if @step_into.include?(resource.type)
      end
    end

    # The resource of a type, as ChefSpec's chef_run.file(...).
    def resource(type, name)
      @performed.map(&:first).find { |one| one.type == type && one.name == name }
    end

    CORE.each_key { |type| define_method(type) { |name| resource(type, name) } }
  end

  # What stands in a group of examples.
  module SpecLanguage
    def platform(*); end

    def step_into(*types)
      let(:stepped_into) { types }
    end

    def default_attributes
      above = superclass.respond_to?(:default_attributes) ? superclass.default_attributes : {}
      @default_attributes ||= Attributes.new.merge_in(above)
    end

    def recipe(&block)
      let(:recipe_block) { block }
    end
  end

  RSpec.shared_context('harness') do
    let(:stepped_into) { [] }
    let(:chef_run) { SpecRun.new(self.class.default_attributes, stepped_into).record(recipe_block) }
    subject { chef_run }
  end

  # create_file('/path').with(mode: '0644') and the like.
  %i[install upgrade create delete enable start nothing run].product(CORE.keys).each do |action, type|
    RSpec::Matchers.define(:"#{action}_#{type}") do |name|
      chain(:with) { |values| @values = values }
      match do |run|
        found = run.performed.find { |one, did| one.type == type && one.name == name && did == action }
        found && (@values || {}).all? { |key, value| values_match?(value, found.first.public_send(key)) }
      end
      failure_message { |run| "#{type}[#{name}] does not #{action} with #{@values}: #{run.performed.map { |one, did| [one.to_s, did] }}" }
    end
  end

  RSpec::Matchers.define(:notify) do |target|
    chain(:to) { |action| @action = action }
    chain(:delayed) { @timing = :delayed }
    match do |resource|
      resource.notifications.any? { |one| [one.target, one.action, one.timing] == [target, @action, @timing] }
    end
  end

  RSpec.configure do |config|
    config.extend(SpecLanguage)
    config.include_context('harness')
  end
end
