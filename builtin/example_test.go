package builtin_test

import (
	"fmt"
	"log"

	"github.com/inferweir/weir/builtin"
)

func Example() {
	models, err := builtin.New()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(models.Language("Où est la bibliothèque ?"))
	fmt.Println(models.Language("12345"))
	fmt.Println(models.Sentiment("The book was good."))
	// Output:
	// {fr 0.931}
	// {und 0}
	// {positive 0.4404}
}
