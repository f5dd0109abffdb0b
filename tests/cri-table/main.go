// Command cri-table prints the shape of the Kubernetes CRI v1 API as the upstream Go module declares it, one fact a
// line, in a fixed order. Its output is kept in proto/tests/cri-v1-0.37.2.table, and a test of podbox-proto holds our
// own api.proto against it. Run it again only when the module version in go.mod changes:
//
//	go run . > ../../proto/tests/cri-v1-VERSION.table
//
// Lines:
//
//	file SYNTAX PACKAGE
//	service SERVICE
//	method SERVICE METHOD INPUT OUTPUT client=unary|stream server=unary|stream
//	message MESSAGE
//	field MESSAGE NUMBER NAME singular|optional|repeated|map TYPE oneof=NAME|- json=NAME flags=FLAG,...|-
//	enum ENUM
//	value ENUM NUMBER NAME flags=FLAG,...|-
//
// Flags are deprecated, debug_redact and unpacked. A map's TYPE is KEY,VALUE; the entry messages that protobuf makes
// for maps are not listed.
package main

import (
	"bufio"
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func main() {
	out := bufio.NewWriter(os.Stdout)
	// Any message leads to the file that declares the whole API.
	file := (&runtimeapi.VersionRequest{}).ProtoReflect().Descriptor().ParentFile()
	fmt.Fprintf(out, "file %s %s\n", file.Syntax(), file.Package())
	for _, service := range byName(file.Services()) {
		printService(out, service)
	}
	messages, enums := declared(file)
	for _, message := range messages {
		printMessage(out, message)
	}
	for _, enum := range enums {
		printEnum(out, enum)
	}
	if err := out.Flush(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// scope is what can declare messages and enums: a file or a message.
type scope interface {
	Messages() protoreflect.MessageDescriptors
	Enums() protoreflect.EnumDescriptors
}

// declared returns every message and enum below a scope, nested ones included, each sorted by full name.
func declared(in scope) (messages []protoreflect.MessageDescriptor, enums []protoreflect.EnumDescriptor) {
	enums = byName(in.Enums())
	for _, message := range byName(in.Messages()) {
		if message.IsMapEntry() {
			continue
		}
		nestedMessages, nestedEnums := declared(message)
		messages = append(append(messages, message), nestedMessages...)
		enums = append(enums, nestedEnums...)
	}
	sortByName(messages)
	sortByName(enums)
	return messages, enums
}

func printService(out *bufio.Writer, service protoreflect.ServiceDescriptor) {
	fmt.Fprintf(out, "service %s\n", service.FullName())
	for _, method := range byName(service.Methods()) {
		fmt.Fprintf(out, "method %s %s %s %s client=%s server=%s\n", service.FullName(), method.Name(),
			method.Input().FullName(), method.Output().FullName(),
			streaming(method.IsStreamingClient()), streaming(method.IsStreamingServer()))
	}
}

func streaming(yes bool) string {
	if yes {
		return "stream"
	}
	return "unary"
}

func printMessage(out *bufio.Writer, message protoreflect.MessageDescriptor) {
	fmt.Fprintf(out, "message %s\n", message.FullName())
	fields := all(message.Fields())
	slices.SortFunc(fields, func(a, b protoreflect.FieldDescriptor) int { return cmp.Compare(a.Number(), b.Number()) })
	for _, field := range fields {
		fmt.Fprintf(out, "field %s %d %s %s %s oneof=%s json=%s flags=%s\n", message.FullName(), field.Number(),
			field.Name(), label(field), typeOf(field), oneof(field), field.JSONName(), fieldFlags(field))
	}
}

func label(field protoreflect.FieldDescriptor) string {
	switch {
	case field.IsMap():
		return "map"
	case field.IsList():
		return "repeated"
	case field.HasOptionalKeyword():
		return "optional"
	default:
		return "singular"
	}
}

func typeOf(field protoreflect.FieldDescriptor) string {
	switch {
	case field.IsMap():
		return typeOf(field.MapKey()) + "," + typeOf(field.MapValue())
	case field.Message() != nil:
		return string(field.Message().FullName())
	case field.Enum() != nil:
		return string(field.Enum().FullName())
	default:
		return field.Kind().String()
	}
}

func oneof(field protoreflect.FieldDescriptor) string {
	if in := field.ContainingOneof(); in != nil && !in.IsSynthetic() {
		return string(in.Name())
	}
	return "-"
}

func fieldFlags(field protoreflect.FieldDescriptor) string {
	options := field.Options().(*descriptorpb.FieldOptions)
	return flags(
		flag{"deprecated", options.GetDeprecated()},
		flag{"debug_redact", options.GetDebugRedact()},
		flag{"unpacked", options != nil && options.Packed != nil && !options.GetPacked()},
	)
}

func printEnum(out *bufio.Writer, enum protoreflect.EnumDescriptor) {
	fmt.Fprintf(out, "enum %s\n", enum.FullName())
	values := all(enum.Values())
	slices.SortStableFunc(values, func(a, b protoreflect.EnumValueDescriptor) int {
		return cmp.Or(cmp.Compare(a.Number(), b.Number()), cmp.Compare(a.Name(), b.Name()))
	})
	for _, value := range values {
		options := value.Options().(*descriptorpb.EnumValueOptions)
		fmt.Fprintf(out, "value %s %d %s flags=%s\n", enum.FullName(), value.Number(), value.Name(),
			flags(flag{"deprecated", options.GetDeprecated()}, flag{"debug_redact", options.GetDebugRedact()}))
	}
}

type flag struct {
	name string
	set  bool
}

// flags joins the names of those that are set, in the order given.
func flags(of ...flag) string {
	var set []string
	for _, f := range of {
		if f.set {
			set = append(set, f.name)
		}
	}
	if len(set) == 0 {
		return "-"
	}
	return strings.Join(set, ",")
}

// list is the shape that all of protoreflect's collections share.
type list[T any] interface {
	Len() int
	Get(int) T
}

func all[T any](of list[T]) []T {
	items := make([]T, of.Len())
	for i := range items {
		items[i] = of.Get(i)
	}
	return items
}

func byName[T protoreflect.Descriptor](of list[T]) []T {
	items := all(of)
	sortByName(items)
	return items
}

func sortByName[T protoreflect.Descriptor](items []T) {
	slices.SortFunc(items, func(a, b T) int { return cmp.Compare(a.FullName(), b.FullName()) })
}
