package config

import "reflect"

// cloned is v with copies of all that it points to.
func cloned(v reflect.Value) reflect.Value {
	out := reflect.New(v.Type()).Elem()
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return v
		}
		out.Set(reflect.New(v.Type().Elem()))
		out.Elem().Set(cloned(v.Elem()))
	case reflect.Slice:
		if v.IsNil() {
			return v
		}
		out.Set(reflect.MakeSlice(v.Type(), v.Len(), v.Len()))
		for i := range v.Len() {
			out.Index(i).Set(cloned(v.Index(i)))
		}
	case reflect.Map:
		if v.IsNil() {
			return v
		}
		out.Set(reflect.MakeMapWithSize(v.Type(), v.Len()))
		for at := v.MapRange(); at.Next(); {
			out.SetMapIndex(at.Key(), cloned(at.Value()))
		}
	case reflect.Struct:
		if isLeaf(v.Type()) {
			return v
		}
		for i := range v.NumField() {
			out.Field(i).Set(cloned(v.Field(i)))
		}
	default:
		return v
	}
	return out
}
