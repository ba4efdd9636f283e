package config

import "reflect"

// Redacted returns a copy of c in which "(redacted)" stands for every secret: the admin
// token, the keys of callers, the signing keys of blobs and webhooks, and the values of
// set_headers and of telemetry.otlp.headers. In the URLs of stores, databases and blobs it
// stands for passwords alone. Parse refuses it as a secret: nothing can be served from such
// a copy.
func (c *Config) Redacted() *Config {
	out := reflect.New(reflect.TypeFor[Config]())
	out.Elem().Set(cloned(reflect.ValueOf(*c)))
	redactIn(out.Elem())
	return out.Interface().(*Config)
}

// redactIn takes the secrets out of a struct, and out of all that its keys hold.
func redactIn(v reflect.Value) {
	if isLeaf(v.Type()) {
		return
	}
	for _, r := range rules(v.Type()) {
		redactValue(r, v.Field(r.index))
	}
}

func redactValue(r rule, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			redactValue(r, v.Elem())
		}
	case reflect.Struct:
		redactIn(v)
	case reflect.Slice:
		for i := range v.Len() {
			redactValue(r, v.Index(i))
		}
	case reflect.Map:
		for at := v.MapRange(); at.Next(); {
			item := reflect.New(v.Type().Elem()).Elem()
			item.Set(at.Value())
			if r.secret {
				item.SetString(redacted)
			} else {
				redactValue(r, item)
			}
			v.SetMapIndex(at.Key(), item)
		}
	case reflect.String:
		switch {
		case r.secret && v.Len() > 0:
			v.SetString(redacted)
		case r.url:
			v.SetString(redactURL(v.String()))
		}
	}
}
