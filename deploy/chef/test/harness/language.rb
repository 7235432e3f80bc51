# frozen_string_literal: true

# DSL harness, not Chef: properties, resources as classes, and what may stand in a recipe.
module Harness
  class ValidationFailed < StandardError; end

  # Attributes while they are set: a level that is not there is made when it is asked for.
  class Attributes < Hash
    def initialize
      super { |hash, key| hash[key] = Attributes.new }
    end

    # What a recipe reads: what is not there is nil, and nothing can be changed.
    def read_only
      to_h.transform_values { |value| value.is_a?(Attributes) ? value.read_only : value }.freeze
    end

    def []=(key, value)
      super(key, value.instance_of?(Hash) ? Attributes.new.merge_in(value) : value)
    end

    def merge_in(other)
      other.each { |key, value| value.is_a?(Hash) && key?(key) ? self[key].merge_in(value) : self[key] = value }
      self
    end
  end

  # What a resource takes: types, patterns and defaults, checked when it is set and before an action.
  class Property
    KNOWN = %i[name_property regex equal_to default required].freeze

    attr_reader :name, :options

    def initialize(name, types, options)
      unknown = options.keys - KNOWN
      raise ArgumentError, "property #{name}: the harness does not know #{unknown.join(', ')}" unless unknown.empty?

      @name = name
      @types = Array(types)
      @options = options
    end

    def check(value)
      refuse(value, "one of #{@types.inspect}") unless fits?(value)
      refuse(value, "like #{options[:regex].inspect}") if options[:regex] && !value.match?(options[:regex])
      refuse(value, "one of #{options[:equal_to]}") if options[:equal_to] && !options[:equal_to].include?(value)
    end

    def required_for?(action)
      options[:required] == true || Array(options[:required]).include?(action)
    end

    private

    def fits?(value)
      @types.empty? || @types.any? { |type| type.is_a?(Module) ? value.is_a?(type) : value == type }
    end

    def refuse(value, wanted)
      raise ValidationFailed, "property #{name} is #{value.inspect}, and has to be #{wanted}"
    end
  end

  # One resource of a recipe.
  class Resource
    Notification = Struct.new(:action, :target, :timing)

    class << self
      def properties
        @properties ||= superclass.respond_to?(:properties) ? superclass.properties.dup : {}
      end

      def property(name, types = nil, **options)
        one = properties[name] = Property.new(name, types, options)
        define_method(name) { |*value| value.empty? ? get(one) : set(one, value.first) }
      end

      def default_action(action = nil)
        @default_action = action if action
        @default_action || (superclass.default_action if superclass.respond_to?(:default_action)) || :nothing
      end
    end

    property :action, [Symbol, Array]

    attr_reader :name, :type, :context, :notifications, :guards
    attr_accessor :updated

    def initialize(type, name, context)
      @type = type
      @name = name
      @context = context
      @values = {}
      @notifications = []
      @guards = []
      named = self.class.properties.values.find { |property| property.options[:name_property] }
      set(named, name) if named
    end

    def to_s
      "#{type}[#{name}]"
    end

    def actions
      Array(action || self.class.default_action)
    end

    def notifies(action, target, timing = :delayed)
      @notifications << Notification.new(action, target, timing)
    end

    def not_if(command)
      @guards << [false, command]
    end

    def only_if(command)
      @guards << [true, command]
    end

    def validate(action)
      missing = self.class.properties.values.select { |one| one.required_for?(action) && get(one).nil? }
      raise ValidationFailed, "#{self} needs #{missing.map(&:name).join(', ')} to #{action}" unless missing.empty?
    end

    # In a block of Chef, attributes and what the recipe has are within reach.
    def node
      context.node
    end

    private

    def get(property)
      @values.fetch(property.name) { property.options[:default] }
    end

    def set(property, value)
      begin
        property.check(value)
      rescue ValidationFailed => e
        raise ValidationFailed, "#{self}: #{e.message}"
      end
      @values[property.name] = value
    end
  end

  # A resource of the cookbook: its file is the body of a class.
  class CustomResource < Resource
    class << self
      attr_reader :type, :bodies, :helpers

      def compile(cookbook, path)
        Class.new(self) do
          @type = :"#{cookbook}_#{File.basename(path, '.rb')}"
          @bodies = {}
          class_eval(File.read(path), path)
          raise "#{path}: unified_mode is not true" unless @unified_mode
        end
      end

      def unified_mode(value)
        @unified_mode = value
      end

      def provides(name)
        @type = name
      end

      def resource_name(name)
        @type = name
      end

      def action(name, &body)
        @bodies[name] = body
      end

      def action_class(&body)
        @helpers = body
      end
    end
  end

  # What may stand in a recipe and in an action: resources of a collection.
  module Recipe
    def include_recipe(name)
      context.run.include_recipe(name, self)
    end

    def node
      context.node
    end

    def with_run_context(name)
      raise ArgumentError, "the harness knows the root context only, not #{name}" unless name == :root

      before = context
      @context = context.root
      yield
    ensure
      @context = before
    end

    def find_resource(type, name, &block)
      context.find("#{type}[#{name}]") || declare(type, name, &block)
    end

    def declare(type, name, &block)
      resource = context.run.class_of(type).new(type, name, context)
      resource.instance_eval(&block) if block
      context.add(resource)
    end

    def respond_to_missing?(name, all = false)
      context.run.class_of(name, strict: false) ? true : super
    end

    def method_missing(name, *arguments, &block)
      return super unless context.run.class_of(name, strict: false)

      declare(name, *arguments, &block)
    end
  end

  # The body of a recipe.
  class RecipeBody
    include Recipe

    attr_reader :context

    def initialize(context)
      @context = context
    end

    # No variable of the harness is within reach of the text but these two.
    def read(text, path)
      instance_eval(text, path)
    end
  end

  # The body of an action: unified mode, so each of its resources acts where it stands.
  class ActionBody
    include Recipe

    attr_reader :context, :new_resource

    def initialize(context, resource)
      @context = context
      @new_resource = resource
    end
  end

  # A collection of resources. That of an action has the one of its recipe above it.
  class Context
    attr_reader :run, :root, :resources

    def initialize(run, root: nil, acting: nil)
      @run = run
      @root = root || self
      @acting = acting
      @resources = []
    end

    def node
      run.node
    end

    def add(resource)
      @resources << resource
      @acting&.call(resource)
      resource
    end

    def find(name)
      @resources.find { |one| one.to_s == name } || (root.find(name) unless root.equal?(self))
    end
  end
end
