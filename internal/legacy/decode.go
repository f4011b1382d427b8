package legacy

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// leaf is a type that is written as one value and knows itself how to read it. The error says what to write.
type leaf interface{ parse(value any) error }

// read fills a variable from the values of a JSON tree. Fields are those of its type, by their json tags; further tags limit
// what is possible in this version:
//
//	max:"64"         at most so many characters, entries, or that number
//	required:"true"  not empty
//	alias:"before"   the name that the field had before
//	exact:"true"     from here on, a field that is not known is an error: more might be federated without it
//
// null is the same as nothing, as everywhere in Protocol Buffers' JSON.
func (c *conversion) read(field string, value any, to reflect.Value, exact bool) {
	if value == nil {
		return
	}
	if l, ok := reflect.TypeAssert[leaf](to.Addr()); ok {
		if err := l.parse(value); err != nil {
			c.invalid(field, "%v", err)
		}
		return
	}
	switch to.Kind() {
	case reflect.Pointer:
		to.Set(reflect.New(to.Type().Elem()))
		c.read(field, value, to.Elem(), exact)
	case reflect.Struct:
		c.readStruct(field, value, to, exact)
	case reflect.Slice:
		list, ok := value.([]any)
		if !ok {
			c.invalid(field, "must be a list")
			return
		}
		to.Set(reflect.MakeSlice(to.Type(), len(list), len(list)))
		for i, v := range list {
			entry := fmt.Sprintf("%s[%d]", field, i)
			if v == nil {
				c.invalid(entry, "is empty: give it a value, or take it out")
			}
			c.read(entry, v, to.Index(i), exact)
		}
	case reflect.Map:
		object, ok := value.(map[string]any)
		if !ok {
			c.invalid(field, "must be an object")
			return
		}
		to.Set(reflect.MakeMap(to.Type()))
		for _, key := range slices.Sorted(maps.Keys(object)) {
			v := reflect.New(to.Type().Elem()).Elem()
			c.read(field+"."+key, object[key], v, exact)
			to.SetMapIndex(reflect.ValueOf(key), v)
		}
	case reflect.String:
		s, ok := value.(string)
		if !ok {
			c.invalid(field, "must be text")
		}
		to.SetString(s)
	case reflect.Bool:
		b, ok := value.(bool)
		if !ok {
			c.invalid(field, "must be true or false")
		}
		to.SetBool(b)
	case reflect.Uint32:
		n, err := wholeNumber(value)
		if err != nil {
			c.invalid(field, "%v", err)
		}
		to.SetUint(uint64(n))
	default:
		panic("legacy: no way to read a " + to.Type().String())
	}
}

func (c *conversion) readStruct(field string, value any, to reflect.Value, exact bool) {
	object, ok := value.(map[string]any)
	if !ok {
		c.invalid(field, "must be an object")
		return
	}
	fields, before := map[string]reflect.StructField{}, map[string]string{}
	for _, f := range reflect.VisibleFields(to.Type()) {
		if !f.Anonymous {
			fields[f.Tag.Get("json")] = f
			if alias := f.Tag.Get("alias"); alias != "" {
				before[alias] = f.Tag.Get("json")
			}
		}
	}
	written := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(object)) {
		path := field + "." + key
		name := cmp.Or(before[camel(key)], camel(key))
		f, known := fields[name]
		switch other := written[name]; {
		case !known && exact:
			c.invalid(path, "is no field of this generation, and without it more might be federated: take it out, or select otherwise")
		case !known:
			c.keepAside(path, object[key])
		case other != "":
			c.invalid(path, "is written as %s too: keep one of the two", other)
		default:
			written[name] = key
			if name != camel(key) {
				c.note(ReasonChanged, path, "is called %s in later versions, and here", name)
			}
			c.read(path, object[key], to.FieldByIndex(f.Index), exact || f.Tag.Get("exact") != "")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		f := fields[name]
		c.limit(field+"."+name, f.Tag, to.FieldByIndex(f.Index))
	}
}

// limit holds a value against the tags of its field.
func (c *conversion) limit(field string, tag reflect.StructTag, value reflect.Value) {
	if tag.Get("required") != "" && (value.IsZero() || value.Kind() == reflect.Slice && value.Len() == 0) {
		c.invalid(field, "is missing: add it")
	}
	limit, err := strconv.Atoi(tag.Get("max"))
	if err != nil {
		return
	}
	switch value.Kind() {
	case reflect.Slice, reflect.Map:
		if n := value.Len(); n > limit {
			c.invalid(field, "has %d entries, and %d are possible", n, limit)
		}
	case reflect.String:
		if n := utf8.RuneCountInString(value.String()); n > limit {
			c.invalid(field, "has %d characters, and %d are possible: shorten it", n, limit)
		}
	case reflect.Uint32:
		if n := value.Uint(); n > uint64(limit) {
			c.invalid(field, "is %d, and %d is the most that is possible", n, limit)
		}
	default:
		panic("legacy: no limit for a " + value.Type().String())
	}
}

// camel is the camel case of a name in snake case.
func camel(name string) string {
	words := strings.Split(name, "_")
	for i, w := range words[1:] {
		if w != "" {
			words[i+1] = strings.ToUpper(w[:1]) + w[1:]
		}
	}
	return strings.Join(words, "")
}
