import pytest

from demo.baskets import Item, Line, Purchase, baskets_of, busiest_stores, product_of, readable_name, units

MILK = Item("product-7", "store-367")
EGGS = Item("product-8", "store-367")


def purchase(basket_id=1, product_id=7, quantity=1, store_id=367, household_id=900):
    return Purchase(basket_id, household_id, store_id, product_id, quantity)


def test_purchases_of_one_basket_become_its_lines():
    [basket] = baskets_of([purchase(quantity=2), purchase(product_id=8)])
    assert basket.basket_id == "basket-1"
    assert basket.customer == "household-900"
    assert basket.lines == (Line(MILK, 2), Line(EGGS, 1))


def test_lines_of_the_same_product_are_merged():
    [basket] = baskets_of([purchase(quantity=2), purchase(product_id=8), purchase(quantity=3)])
    assert basket.lines == (Line(MILK, 5), Line(EGGS, 1))


def test_baskets_keep_the_order_in_which_they_were_bought():
    baskets = baskets_of([purchase(basket_id=2), purchase(basket_id=1), purchase(basket_id=1, product_id=8)])
    assert [(basket.basket_id, len(basket.lines)) for basket in baskets] == [("basket-2", 1), ("basket-1", 2)]


def test_a_run_of_its_own_shares_products_but_no_store_and_no_basket():
    [basket] = baskets_of([purchase()], run="-x7")
    assert basket.basket_id == "basket-1-x7"
    assert basket.lines == (Line(Item("product-7", "store-367-x7"), 1),)


def test_a_reservation_takes_no_more_than_two_hundred_lines():
    [basket] = baskets_of(purchase(product_id=n) for n in range(250))
    assert len(basket.lines) == 200


@pytest.mark.parametrize(("booked", "pieces"), [(1, 1), (144, 144), (145, 1), (89_638, 1)])
def test_fuel_by_the_thousandth_of_a_gallon_is_one_fill_up(booked, pieces):
    assert units(booked) == pieces


def test_the_busiest_stores_are_taken_until_there_is_enough_to_choose_from():
    baskets_per_store = {1: 10, 2: 50, 3: 40, 4: 30, 5: 20}
    assert busiest_stores(baskets_per_store, orders=1) == {2, 3, 4, 5}
    assert busiest_stores(baskets_per_store, orders=49) == {1, 2, 3, 4, 5}


def test_the_whole_year_takes_every_store():
    assert busiest_stores({1: 10, 2: 50}, orders=60) == {1, 2}


def test_the_product_is_in_the_sku():
    assert product_of(MILK.sku) == 7


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (("BANANAS", "40 LB", "TROPICAL FRUIT"), "Bananas, 40 lb (tropical fruit)"),
        (("CIGARETTES", None, "CIGARETTES"), "Cigarettes"),
        ((None, None, None), "Product"),
    ],
)
def test_names_do_not_shout(row, name):
    assert readable_name(*row) == name
